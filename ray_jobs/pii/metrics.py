"""Span detection scores from counts per document, with bootstrap intervals over documents.

Pure: numpy only. Counts add up, so every score is a ratio of sums and a bootstrap replicate
is one matrix product of resampling weights with the counts (D documents, R replicates).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

REPLICATES = 1000
CONFIDENCE = 0.95
_BLOCK = 4_000_000


class Spanned(Protocol):
    """Anything with characters [start, end) and a label: a true span or a detected one."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def label(self) -> str: ...


@dataclass(frozen=True)
class Interval:
    """A figure and the ends of its bootstrap interval; None where it is undefined (0/0)."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class SpanScores:
    """Precision, recall and F1 with what they were counted from."""

    f1: Interval
    precision: Interval
    recall: Interval
    true_spans: int
    found_spans: int


def strict_counts(
    truth: Iterable[Spanned], found: Iterable[Spanned], labels: Sequence[str]
) -> np.ndarray:
    """(labels, 3) of one document: (hits, true spans, found spans) by exact start, end, label."""
    wanted = {(span.start, span.end, span.label) for span in truth}
    got = {(span.start, span.end, span.label) for span in found}
    counts = np.zeros((len(labels), 3), dtype=np.int64)
    number = {label: row for row, label in enumerate(labels)}
    for column, spans in enumerate((wanted & got, wanted, got)):
        for _, _, label in spans:
            if label in number:
                counts[number[label], column] += 1
    return counts


def relaxed_counts(truth: Sequence[Spanned], found: Sequence[Spanned]) -> np.ndarray:
    """(4,) of one document: true spans touched, true spans, found spans that touch, found spans.

    Touching is one shared character and the same label: recall is the first over the
    second, precision the third over the fourth.
    """

    def touched(spans: Sequence[Spanned], others: Sequence[Spanned]) -> int:
        return sum(
            any(s.start < o.end and o.start < s.end and s.label == o.label for o in others)
            for s in spans
        )

    return np.array([touched(truth, found), len(truth), touched(found, truth), len(found)])


def character_counts(truth: Sequence[Spanned], found: Sequence[Spanned]) -> np.ndarray:
    """(3,) of one document: true characters that some found span covers, true, found.

    Labels are ignored: a masked character is masked whatever it was called.
    """
    wanted = {position for span in truth for position in range(span.start, span.end)}
    got = {position for span in found for position in range(span.start, span.end)}
    return np.array([len(wanted & got), len(wanted), len(got)])


def bootstrap_sums(counts: np.ndarray, seed: int, replicates: int = REPLICATES) -> np.ndarray:
    """(R, ...) sums of `counts` (D, ...) over documents drawn with replacement; seeded."""
    n_documents = len(counts)
    if n_documents == 0:
        return np.zeros((replicates, *counts.shape[1:]))
    flat = counts.reshape(n_documents, -1).astype(np.float64)
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK // n_documents)
    sums = []
    for first in range(0, replicates, block):
        drawn = generator.integers(n_documents, size=(min(block, replicates - first), n_documents))
        weights = np.stack([np.bincount(row, minlength=n_documents) for row in drawn])
        sums.append(weights @ flat)
    return np.concatenate(sums).reshape(replicates, *counts.shape[1:])


def span_scores(counts: np.ndarray, seed: int) -> SpanScores:
    """Scores of per-document (hits, true, found) counts (D, 3), micro-averaged."""
    total, resampled = counts.sum(0), bootstrap_sums(counts, seed)
    hits, true, found = total
    r_hits, r_true, r_found = resampled.T
    return SpanScores(
        f1=_interval(2 * hits, true + found, 2 * r_hits, r_true + r_found),
        precision=_interval(hits, found, r_hits, r_found),
        recall=_interval(hits, true, r_hits, r_true),
        true_spans=int(true),
        found_spans=int(found),
    )


def relaxed_scores(counts: np.ndarray, seed: int) -> SpanScores:
    """Scores of per-document `relaxed_counts` (D, 4)."""
    total, resampled = counts.sum(0), bootstrap_sums(counts, seed)
    recall, precision = _ratio(total[0], total[1]), _ratio(total[2], total[3])
    r_recall = _ratio(resampled[:, 0], resampled[:, 1])
    r_precision = _ratio(resampled[:, 2], resampled[:, 3])
    return SpanScores(
        f1=_with_bounds(_harmonic(precision, recall), _harmonic(r_precision, r_recall)),
        precision=_with_bounds(precision, r_precision),
        recall=_with_bounds(recall, r_recall),
        true_spans=int(total[1]),
        found_spans=int(total[3]),
    )


def ratio_interval(numerators: np.ndarray, denominators: np.ndarray, seed: int) -> Interval:
    """sum(numerators) / sum(denominators) over documents (D,), with its interval."""
    counts = np.stack([numerators, denominators], axis=1)
    resampled = bootstrap_sums(counts, seed)
    total = counts.sum(0)
    return _interval(total[0], total[1], resampled[:, 0], resampled[:, 1])


def f_score(counts: np.ndarray, beta: float = 1.0) -> float:
    """F-beta of summed (hits, true, found); 0 where nothing is true and nothing found."""
    hits, true, found = (float(count) for count in counts)
    denominator = beta**2 * true + found
    return (1 + beta**2) * hits / denominator if denominator else 0.0


def _interval(
    top: np.ndarray, bottom: np.ndarray, r_top: np.ndarray, r_bottom: np.ndarray
) -> Interval:
    return _with_bounds(_ratio(top, bottom), _ratio(r_top, r_bottom))


def _with_bounds(value: np.ndarray, replicates: np.ndarray) -> Interval:
    """The percentile interval; replicates in which the ratio is undefined are left out."""
    if not np.isfinite(value):
        return Interval(None, None, None)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(replicates[np.isfinite(replicates)], [tail, 1 - tail])
    return Interval(float(value), float(low), float(high))


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom, NaN where bottom is 0."""
    top, bottom = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def _harmonic(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return _ratio(2 * first * second, first + second)
