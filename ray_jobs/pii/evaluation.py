"""Scores of the spans found in labelled documents, by type and language."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from data.documents import Document
from ray_jobs.pii.metrics import (
    Interval,
    Spanned,
    SpanScores,
    character_counts,
    ratio_interval,
    relaxed_counts,
    relaxed_scores,
    span_scores,
    strict_counts,
)

PROSE = "prose:"
_PER_TOKENS = 1000


@dataclass(frozen=True)
class Evaluation:
    """Scores with 95 % bootstrap intervals over documents.

    Every F1 is micro-averaged over the labelled documents; those whose source starts with
    "prose:" hold no personal data and enter `false_positives_per_1000_tokens` alone, which
    is undefined (None) without any.
    """

    documents: int
    prose_documents: int
    strict: SpanScores
    """Exact start, end and label."""
    relaxed: SpanScores
    """The same label and at least one shared character."""
    by_type: dict[str, SpanScores]
    by_language: dict[str, SpanScores]
    character_recall: Interval
    """Characters of true spans that some span covers, whatever its label."""
    character_precision: Interval
    false_positives_per_1000_tokens: Interval

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and numbers."""
        return asdict(self)


def strict_f1(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The strict F1 alone, of `Evaluation.to_json()`: overall, by language, by type."""
    return {
        "overall": evaluation["strict"]["f1"]["value"],
        **{
            group: {name: score["f1"]["value"] for name, score in evaluation[group].items()}
            for group in ("by_language", "by_type")
        },
    }


def evaluate(
    documents: Sequence[Document],
    found: Sequence[Sequence[Spanned]],
    n_tokens: Sequence[int],
    seed: int = 0,
) -> Evaluation:
    """Score the spans found in each document; `n_tokens` are the host model's per document.

    A label that was found but never occurs in the documents counts as wrong, and as a type.
    """
    prose = np.array([document.source.startswith(PROSE) for document in documents], dtype=bool)
    labelled = [
        pair
        for pair, clean in zip(zip(documents, found, strict=True), prose, strict=True)
        if not clean
    ]
    labels = sorted(
        {s.label for document, _ in labelled for s in document.spans}
        | {s.label for _, spans in labelled for s in spans}
    )
    strict = _stacked([strict_counts(d.spans, s, labels) for d, s in labelled], (len(labels), 3))
    relaxed = _stacked([relaxed_counts(d.spans, s) for d, s in labelled], (4,))
    characters = _stacked([character_counts(d.spans, s) for d, s in labelled], (3,))
    languages = np.array([document.language for document, _ in labelled], dtype=object)
    wrong = np.array([len(spans) for spans in found])[prose]
    return Evaluation(
        documents=len(labelled),
        prose_documents=int(prose.sum()),
        strict=span_scores(strict.sum(1), seed),
        relaxed=relaxed_scores(relaxed, seed),
        by_type={label: span_scores(strict[:, row], seed) for row, label in enumerate(labels)},
        by_language={
            language: span_scores(strict[languages == language].sum(1), seed)
            for language in sorted(set(languages))
        },
        character_recall=ratio_interval(characters[:, 0], characters[:, 1], seed),
        character_precision=ratio_interval(characters[:, 0], characters[:, 2], seed),
        false_positives_per_1000_tokens=ratio_interval(
            wrong * _PER_TOKENS, np.array(n_tokens)[prose], seed
        ),
    )


def table(evaluation: Evaluation) -> str:
    """The scores as lines for a terminal."""
    rows = [("overall", evaluation.strict)]
    rows += [(f"language {name or '?'}", s) for name, s in evaluation.by_language.items()]
    rows += sorted(evaluation.by_type.items())
    lines = [f"{'strict':18} {'F1':>6} {'95 % interval':>15} {'precision':>9} {'recall':>7} spans"]
    for name, scores in rows:
        lines.append(
            f"{name:18} {_shown(scores.f1.value):>6} {_bounds(scores.f1):>15} "
            f"{_shown(scores.precision.value):>9} {_shown(scores.recall.value):>7} "
            f"{scores.true_spans}"
        )
    for name, figure in (
        ("relaxed F1", evaluation.relaxed.f1),
        ("character recall", evaluation.character_recall),
        ("FP/1000 tok, prose", evaluation.false_positives_per_1000_tokens),
    ):
        lines.append(f"{name:18} {_shown(figure.value):>6} {_bounds(figure):>15}")
    return "\n".join(lines)


def _stacked(counts: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    return np.stack(counts) if counts else np.zeros((0, *shape), dtype=np.int64)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _bounds(interval: Interval) -> str:
    return f"[{_shown(interval.low)}, {_shown(interval.high)}]"
