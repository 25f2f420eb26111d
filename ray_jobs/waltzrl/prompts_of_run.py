"""The prompts of a run: training, validation and test.

The embedded world has its splits. Files of others are cut here: near duplicates are grouped
first, and a group belongs to one split by a hash of its first text, so that no test prompt is a
training prompt in other words.
"""

import hashlib
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from data.builders.splits import SPLITS, fold, split_of
from data.builders.waltz_world import KINDS, requests, sample_requests
from ray_jobs.errors import ConfigError, DataError
from ray_jobs.waltzrl.config import WORLD, WaltzConfig
from ray_jobs.waltzrl.near_duplicates import group_near_duplicates
from ray_jobs.waltzrl.prompt_files import read_prompt_file
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
    names = [name.strip() for name in config.dataset.split(",") if name.strip()]
    prompts = list(dict.fromkeys(p for name in names for p in read_prompt_file(name)))
    _one_kind_each(prompts, config.dataset)
    groups = group_near_duplicates([prompt.text for prompt in prompts])
    found: dict[str, list[Prompt]] = {split: [] for split in SPLITS}
    for prompt, group in zip(prompts, groups, strict=True):
        found[split_of(fold(prompts[group].text))].append(prompt)
    found["train"] = [prompt for prompt in found["train"] if prompt.kind in TRAINED_KINDS]
    limits = {"validation": config.validation_prompts, "test": config.test_prompts}
    for split in SPLITS:
        if not found[split]:
            raise DataError(
                f"{config.dataset}: {len(prompts)} different prompts in {len(set(groups))} groups "
                f"of near duplicates leave none for {split}; give more"
            )
    for split, kind in itertools.product(SPLITS, TRAINED_KINDS):
        if all(prompt.kind != kind for prompt in found[split]):
            raise DataError(
                f"{config.dataset}: no {kind} prompt for {split}, and agents that see one kind "
                "alone learn to refuse all or nothing; give files of both kinds"
            )
    sets = {split: _some(found[split], limits.get(split)) for split in SPLITS}
    source = (
        f"{config.dataset}: {len(prompts):,} different prompts in {len(set(groups)):,} groups of "
        "near duplicates, split by group"
    )
    return _sets(sets, source)


def _one_kind_each(prompts: Sequence[Prompt], dataset: str) -> None:
    kinds: dict[str, str] = {}
    for prompt in prompts:
        other = kinds.setdefault(prompt.text, prompt.kind)
        if other != prompt.kind:
            raise DataError(
                f"{dataset}: {prompt.text[:60]!r} is {other} and {prompt.kind}; leave one of them"
            )


def _some(prompts: list[Prompt], limit: int | None) -> tuple[Prompt, ...]:
    """At most `limit` prompts, the same at every start, in a mixed order."""
    order = random.Random(0).sample(prompts, len(prompts))
    return tuple(order if limit is None else order[:limit])


def _sets(sets: dict[str, tuple[Prompt, ...]], source: str) -> PromptSets:
    digest = hashlib.sha256()
    for name, prompts in sets.items():
        for prompt in prompts:
            digest.update(f"{name}\t{prompt.kind}\t{prompt.text}\n".encode())
    return PromptSets(**sets, source=source, sha256=digest.hexdigest())
