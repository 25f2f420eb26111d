"""The prompts of a run: training, validation and test.

The embedded world has its splits. Files of others are cut here: near duplicates are grouped
first, and a group belongs to one split by a hash of its first text, so that no test prompt is a
training prompt in other words. Where the test prompts have files of their own, those that are near
duplicates of others are counted, and refused unless that is allowed.
"""

import hashlib
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from data.builders.splits import SPLITS, fold, split_of
from data.builders.waltz_world import KINDS, requests, sample_requests
from data.errors import ConfigError, DataError
from ray_jobs.waltzrl.config import WORLD, WaltzConfig
from ray_jobs.waltzrl.datasets.prompts import read_prompt_file
from ray_jobs.waltzrl.near_duplicates import group_near_duplicates
from ray_jobs.waltzrl.prompt_sets import Prompt

TRAINED_KINDS = ("harmful", "overrefusal")
"""The paper trains on adversarial harmful and over-refusal prompts, on no plainly benign ones."""

TRAIN_PROMPTS = 4000
"""Of the embedded world, an equal number of each kind."""


@dataclass(frozen=True)
class PromptSets:
    """`source` names the data for a reader, `sha256` is the identity of all of it."""

    train: tuple[Prompt, ...]
    validation: tuple[Prompt, ...]
    test: tuple[Prompt, ...]
    source: str
    sha256: str

    @property
    def counts(self) -> str:
        """ "train 4,000 (3,120 different), validation ...": for a reader."""
        sets = {"train": self.train, "validation": self.validation, "test": self.test}
        return ", ".join(
            f"{name} {len(each):,} ({len({p.text for p in each}):,} different)"
            for name, each in sets.items()
        )


def open_prompts(config: WaltzConfig) -> PromptSets:
    """The prompts that `config` names.

    Raises:
        ConfigError: more are asked for than there are.
        DataError: a file is missing, of an unknown form, or has too few different prompts.
    """
    return _world(config) if config.dataset == WORLD else _files(config)


def _world(config: WaltzConfig) -> PromptSets:
    sets = {
        "train": _sample("train", TRAINED_KINDS, TRAIN_PROMPTS, "batch_size"),
        "validation": _sample("validation", KINDS, config.validation_prompts, "validation_prompts"),
        "test": _sample("test", KINDS, config.test_prompts, "test_prompts"),
    }
    families = len({request.family for request in requests("test")})
    return _sets(
        sets,
        "built-in invented house rules; no wording and no pair of act and thing of a test "
        f"prompt ({families} held-out pairs) is in a training prompt",
    )


def _sample(split: str, kinds: Sequence[str], number: int, field: str) -> tuple[Prompt, ...]:
    try:
        chosen = sample_requests(split, kinds, number, seed=0)
    except ValueError as error:
        raise ConfigError(field, f"{error}; give fewer") from None
    return tuple(Prompt(request.text, request.kind) for request in chosen)


def _files(config: WaltzConfig) -> PromptSets:
    given = (
        [config.dataset] if config.test_dataset is None else [config.dataset, config.test_dataset]
    )
    shown = " and ".join(given)
    prompts, *tests = (_read(names) for names in given)
    every = [*prompts, *itertools.chain(*tests)]
    _one_kind_each(every, shown)
    groups = group_near_duplicates([prompt.text for prompt in every])
    found: dict[str, list[Prompt]] = {split: [] for split in SPLITS}
    for prompt, group in zip(prompts, groups, strict=False):
        split = split_of(fold(every[group].text))
        found["train" if tests and split == "test" else split].append(prompt)
    found["train"] = [prompt for prompt in found["train"] if prompt.kind in TRAINED_KINDS]
    source = (
        f"{shown}: {len(set(every)):,} different prompts in {len(set(groups)):,} groups of near "
        "duplicates, split by group"
    )
    if tests:
        found["test"] = tests[0]
        source += _leak(config, prompts, tests[0], groups)
    limits = {"validation": config.validation_prompts, "test": config.test_prompts}
    for split in SPLITS:
        if not found[split]:
            raise DataError(
                f"{shown}: {len(set(every))} different prompts in {len(set(groups))} groups of "
                f"near duplicates leave none for {split}; give more"
            )
    for split, kind in itertools.product(SPLITS, TRAINED_KINDS):
        if all(prompt.kind != kind for prompt in found[split]):
            raise DataError(
                f"{shown}: no {kind} prompt for {split}, and agents that see one kind "
                "alone learn to refuse all or nothing; give files of both kinds"
            )
    return _sets({split: _some(found[split], limits.get(split)) for split in SPLITS}, source)


def _read(names: str) -> list[Prompt]:
    """Every different prompt of the files, in their order."""
    files = [name.strip() for name in names.split(",") if name.strip()]
    return list(dict.fromkeys(prompt for name in files for prompt in read_prompt_file(name)))


def _leak(config: WaltzConfig, others: list[Prompt], tests: list[Prompt], groups: list[int]) -> str:
    """What there is to say of test prompts that the training may see in other words.

    Raises:
        DataError: there are some, and that is not allowed.
    """
    seen = set(groups[: len(others)])
    pairs = zip(tests, groups[len(others) :], strict=True)
    leaked = [prompt for prompt, group in pairs if group in seen]
    if not leaked:
        return "; test files apart"
    said = (
        f"{len(leaked):,} of {len(tests):,} test prompts are near duplicates of others in "
        f"{config.dataset} ({leaked[0].text[:60]!r})"
    )
    if not config.allow_leak:
        raise DataError(
            f"{config.test_dataset}: {said}; leave them out on one side, or give --allow-leak"
        )
    return f"; LEAK, allowed: {said}"


def _one_kind_each(prompts: Sequence[Prompt], dataset: str) -> None:
    kinds: dict[str, str] = {}
    for prompt in prompts:
        other = kinds.setdefault(prompt.text, prompt.kind)
        if other != prompt.kind:
            raise DataError(
                f"{dataset}: {prompt.text[:60]!r} is {other} and {prompt.kind}; leave one of them"
            )


def _some(prompts: list[Prompt], limit: int | None) -> tuple[Prompt, ...]:
    """At most `limit` prompts, the same at every start, in a mixed order: as near to equally many
    of each kind as there are."""
    order = random.Random(0).sample(prompts, len(prompts))
    if limit is None:
        return tuple(order)
    turns = {kind: itertools.count() for kind in KINDS}
    by_turn = sorted(order, key=lambda prompt: next(turns[prompt.kind]))
    chosen = set(by_turn[:limit])
    return tuple(prompt for prompt in order if prompt in chosen)


def _sets(sets: dict[str, tuple[Prompt, ...]], source: str) -> PromptSets:
    digest = hashlib.sha256()
    for name, prompts in sets.items():
        for prompt in prompts:
            digest.update(f"{name}\t{prompt.kind}\t{prompt.text}\n".encode())
    return PromptSets(**sets, source=source, sha256=digest.hexdigest())
