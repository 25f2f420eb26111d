"""Character spans to BIOES token tags and back (Ratinov and Roth 2009, BILOU there).

Tag 0 is O; the type number i owns the tags 4i+1 (B), 4i+2 (I), 4i+3 (E) and 4i+4 (S).
Pure: numpy only, no model and no file.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from data.documents import Span

OUTSIDE = 0
BEGIN, INSIDE, END, SINGLE = 1, 2, 3, 4
_ROLES = "BIES"
_BRACKETS = {")": "(", "]": "[", "}": "{"}


@dataclass(frozen=True)
class PIISpan:
    """Characters [start, end) found to be `label`, with their probability.

    `found_by` is "probe", or the check that proves a structure ("mod 97", "Luhn"): then the
    score is 1.
    """

    start: int
    end: int
    label: str
    score: float
    found_by: str = "probe"


@dataclass(frozen=True)
class SpanFilter:
    """Which spans a user wants: of some types, from some probability on, none of allowed texts.

    types        None for all
    thresholds   least probability by type; `threshold` for every other type
    allowed      texts that are no finding, such as a company's own address; case does not matter
    """

    types: frozenset[str] | None = None
    threshold: float = 0.0
    thresholds: Mapping[str, float] = field(default_factory=dict)
    allowed: frozenset[str] = frozenset()

    def __call__(self, text: str, spans: Iterable[PIISpan]) -> list[PIISpan]:
        """The spans of `text` that stay, in order."""
        return [
            span
            for span in spans
            if (self.types is None or span.label in self.types)
            and span.score >= self.thresholds.get(span.label, self.threshold)
            and text[span.start : span.end].casefold() not in self.allowed
        ]


@dataclass(frozen=True)
class TagScheme:
    """The tags of an ordered set of span types."""

    labels: tuple[str, ...]

    @property
    def n_tags(self) -> int:
        return 1 + len(_ROLES) * len(self.labels)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """("O", "B-PERSON", "I-PERSON", ...), indexed by tag."""
        return ("O", *(f"{role}-{label}" for label in self.labels for role in _ROLES))

    @cached_property
    def starts(self) -> np.ndarray:
        """(n_tags,) bool: tags that may come first, which are O and every B and S."""
        role, _ = self._roles_and_types
        return (role == OUTSIDE) | (role == BEGIN) | (role == SINGLE)

    @cached_property
    def ends(self) -> np.ndarray:
        """(n_tags,) bool: tags that may come last, which are O and every E and S."""
        role, _ = self._roles_and_types
        return (role == OUTSIDE) | (role == END) | (role == SINGLE)

    @cached_property
    def transitions(self) -> np.ndarray:
        """(n_tags, n_tags) bool: [i, j] says whether tag j may follow tag i."""
        role, kind = self._roles_and_types
        opens = (role == BEGIN) | (role == INSIDE)
        continues = (role == INSIDE) | (role == END)
        inside = opens[:, None] & continues[None, :] & (kind[:, None] == kind[None, :])
        return inside | (self.ends[:, None] & self.starts[None, :])

    @cached_property
    def _roles_and_types(self) -> tuple[np.ndarray, np.ndarray]:
        tags = np.arange(self.n_tags)
        role = np.where(tags == OUTSIDE, OUTSIDE, (tags - 1) % len(_ROLES) + 1)
        return role, (tags - 1) // len(_ROLES)

    def encode(self, spans: Iterable[Span], offsets: np.ndarray) -> np.ndarray:
        """Tags (T,) int64 of tokens with character `offsets` (T, 2), ascending.

        A token belongs to a span that it overlaps by at least one character. A span of
        a type outside this scheme, or that no token covers, leaves no tag; of two spans
        that share a token the first in the text has it.
        """
        tags = np.zeros(len(offsets), dtype=np.int64)
        known = {label: number for number, label in enumerate(self.labels)}
        free = 0
        for span in sorted(spans, key=lambda span: (span.start, -span.end)):
            first = max(free, int(np.searchsorted(offsets[:, 1], span.start, side="right")))
            stop = int(np.searchsorted(offsets[:, 0], span.end, side="left"))
            if span.label not in known or first >= stop:
                continue
            base = len(_ROLES) * known[span.label]
            tags[first:stop] = base + INSIDE
            tags[first], tags[stop - 1] = base + BEGIN, base + END
            if stop - first == 1:
                tags[first] = base + SINGLE
            free = stop
        return tags

    def segments(self, tags: Sequence[int] | np.ndarray) -> list[tuple[int, int, str]]:
        """The (first token, token after the last, label) of a valid tag sequence."""
        found: list[tuple[int, int, str]] = []
        first = 0
        for position, tag in enumerate(np.asarray(tags).tolist()):
            role, kind = (tag - 1) % len(_ROLES) + 1, (tag - 1) // len(_ROLES)
            if tag == OUTSIDE:
                continue
            if role in (BEGIN, SINGLE):
                first = position
            if role in (END, SINGLE):
                found.append((first, position + 1, self.labels[kind]))
        return found


@dataclass(frozen=True)
class Segment:
    """Tokens [first, stop) of one type and the characters [start, end) that they stand for."""

    first: int
    stop: int
    start: int
    end: int
    label: str


def character_segments(
    text: str, offsets: np.ndarray, scheme: TagScheme, tags: np.ndarray
) -> Iterator[Segment]:
    """Segments of a valid tag sequence that are more than blanks, in order, not overlapping.

    Tokens may share a character (byte-level BPE); of two segments the first has it.
    """
    free = 0
    for first, stop, label in scheme.segments(tags):
        characters = character_range(text, offsets, first, stop, free)
        if characters:
            yield Segment(first, stop, *characters, label)
            free = characters[1]


def character_range(
    text: str, offsets: np.ndarray, first: int, stop: int, free: int = 0
) -> tuple[int, int] | None:
    """Characters [start, end) of the tokens [first, stop), or None if only blanks remain.

    A token may carry more than its word: a leading blank (byte-level BPE) or punctuation
    glued to the word's end. Such an edge is cut as long as something of the token is
    left; a token that is punctuation and nothing else was chosen by the classifier and stays.
    It may also carry less: a part of a character's bytes, or a letter without its accent. A
    character is taken whole, with all its combining marks, unless it is one before `free`.
    """
    start, end = int(offsets[first, 0]), int(offsets[stop - 1, 1])
    while end < len(text) and _is_mark(text[end]):
        end += 1
    while start and _is_mark(text[start]):
        start -= 1
    start = max(start, free)
    last_start = max(start, int(offsets[stop - 1, 0]))
    first_end = min(end, int(offsets[first, 1]))
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    if start >= end:
        return None
    if any(map(str.isalnum, text[start:first_end])):
        while _opening(text[start]):
            start += 1
    if any(map(str.isalnum, text[last_start:end])):
        while _closing(text[end - 1], text[start:end]):
            end -= 1
    return start, end


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


def _opening(character: str) -> bool:
    return unicodedata.category(character) == "Pi" or character in "\"'"


def _closing(character: str, span: str) -> bool:
    if character in _BRACKETS:
        return span.count(character) > span.count(_BRACKETS[character])
    return character in ".,;:!?\"'" or unicodedata.category(character) in ("Pf", "Pe")
