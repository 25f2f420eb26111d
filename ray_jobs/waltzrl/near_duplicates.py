"""Groups of near-duplicate texts, so that no group is cut by a split. Pure.

Two texts are near duplicates when their sets of three-word shingles overlap by more than a
threshold (Jaccard). Candidates come from MinHash signatures in bands, so that large sets need no
comparison of all pairs; each candidate pair is then measured exactly. Numbers and case do not
count: "Prompt 17: ..." and "prompt 18: ..." are the same text.
"""

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

THRESHOLD = 0.6
BANDS, ROWS = 24, 3
"""A pair at Jaccard 0.6 shares a band with probability 1 - (1 - 0.6^3)^24 = 0.997."""
_PRIME = (1 << 31) - 1
_WORD = re.compile(r"[^\W\d_]+")


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """Three-word windows of the text's words; the words themselves if there are fewer."""
    words = _WORD.findall(text.casefold())
    if len(words) < 3:
        return frozenset([tuple(words)])
    return frozenset(zip(words, words[1:], words[2:], strict=False))


def group_near_duplicates(texts: Sequence[str]) -> list[int]:
    """A group number for every text: the index of the group's first text."""
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
            if first != second and _jaccard(sets[one], sets[other]) >= THRESHOLD:
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
