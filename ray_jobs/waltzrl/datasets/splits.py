"""Prompt sets of a run: training, validation and test, with no near duplicate across them.

The embedded world has its own splits. Prompts of files are split here: near duplicates are grouped
first (MinHash over three-word shingles), and a group belongs to one split by a hash of its first
text, so that no test prompt is a training prompt in other words. Where the test prompts have files
of their own, those that are near duplicates of others are counted, and refused unless that is
allowed.
"""

import hashlib
import itertools
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.builders.splits import SPLITS, fold, split_of
from data.builders.waltz_world import KINDS, requests, sample_requests
from data.errors import ConfigError, DataError
from ray_jobs.waltzrl.config import WORLD, WaltzConfig
from ray_jobs.waltzrl.datasets.prompts import Prompt, read_prompt_file

TRAINED_KINDS = ("harmful", "overrefusal")
"""The paper trains on adversarial harmful and over-refusal prompts, on no plainly benign ones."""

TRAIN_PROMPTS = 4000
"""Of the embedded world, an equal number of each kind."""

NEAR_DUPLICATE_SIMILARITY = 0.6
"""Jaccard similarity of shingles from which two texts are near duplicates."""

BANDS, ROWS = 24, 3
"""A pair at Jaccard 0.6 shares a band with probability 1 - (1 - 0.6^3)^24 = 0.997."""
_PRIME = (1 << 31) - 1
_WORD = re.compile(r"[^\W\d_]+")


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
    return _world(config) if config.data == WORLD else _files(config)


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
    given = [config.data] if config.test_data is None else [config.data, config.test_data]
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
        f"{config.data} ({leaked[0].text[:60]!r})"
    )
    if not config.allow_leak:
        raise DataError(
            f"{config.test_data}: {said}; leave them out on one side, or give --allow-leak"
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


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """Three-word windows of the text's words; the words themselves if there are fewer."""
    words = _WORD.findall(text.casefold())
    if len(words) < 3:
        return frozenset([tuple(words)])
    return frozenset(zip(words, words[1:], words[2:], strict=False))


def group_near_duplicates(texts: Sequence[str]) -> list[int]:
    """A group number for every text: the index of the group's first text.

    Near duplicates are texts whose sets of three-word shingles overlap by at least
    NEAR_DUPLICATE_SIMILARITY (Jaccard). Candidates come from MinHash signatures in bands, so that
    large sets need no comparison of all pairs; each candidate pair is then measured exactly.
    Numbers and case do not count: "Prompt 17: ..." and "prompt 18: ..." are the same text.
    """
    sets = [shingles(text) for text in texts]
    parent = list(range(len(texts)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for bucket in _buckets(sets):
        for one, other in zip(bucket, bucket[1:], strict=False):
            first, second = sorted((root(one), root(other)))
            if first != second and _jaccard(sets[one], sets[other]) >= NEAR_DUPLICATE_SIMILARITY:
                parent[second] = first
    return [root(index) for index in range(len(texts))]


def _jaccard(one: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> float:
    return len(one & other) / len(one | other)


def _buckets(sets: Sequence[frozenset[tuple[str, ...]]]) -> list[list[int]]:
    """Lists of two or more texts that share a band of their signatures."""
    rng = np.random.default_rng(0)
    scale = rng.integers(1, _PRIME, BANDS * ROWS, dtype=np.uint64)[:, None]
    shift = rng.integers(0, _PRIME, BANDS * ROWS, dtype=np.uint64)[:, None]
    found: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    numbers: dict[tuple[str, ...], int] = {}
    for index, each in enumerate(sets):
        # Numbered in the order they turn up, not by Python's hash, which changes every start.
        ids = [numbers.setdefault(shingle, len(numbers) + 1) for shingle in sorted(each)]
        hashed = (scale * np.array(ids, dtype=np.uint64)[None] + shift) % np.uint64(_PRIME)
        signature = hashed.min(axis=1).reshape(BANDS, ROWS)
        for band, row in enumerate(signature):
            found[band, row.tobytes()].append(index)
    return [bucket for bucket in found.values() if len(bucket) > 1]
