"""The threshold of a classifier, chosen on validation documents."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from data.documents import Document, Span
from ray_jobs.pii.classifier import Batch, Classifier, Text
from ray_jobs.pii.features import Features
from ray_jobs.pii.metrics import f_score, strict_counts
from ray_jobs.pii.spans import character_segments

LOG_ODDS = np.linspace(-4.0, 4.0, 17)
"""Candidates: log(threshold / (1 - threshold)); 0 is the plain Viterbi path."""


def choose_threshold(
    classifier: Classifier,
    documents: Sequence[Document],
    texts: list[Text],
    features: Features,
    beta: float = 1.0,
) -> Classifier:
    """The classifier with the threshold that maximises strict F-beta on the documents.

    Of equals the one nearest to 0.5 is taken.
    """
    batches = list(classifier.emissions(texts, features))
    candidates = [
        replace(classifier, threshold=float(1 / (1 + np.exp(-log_odds))))
        for log_odds in sorted(LOG_ODDS, key=abs)
    ]
    return max(
        candidates,
        key=lambda candidate: f_score(_counts(candidate, batches, documents, texts), beta),
    )


def _counts(
    classifier: Classifier, batches: list[Batch], documents: Sequence[Document], texts: list[Text]
) -> np.ndarray:
    """(hits, true spans, found spans) over all documents, without the cost of scores."""
    scheme = classifier.probe.scheme
    counts = np.zeros(3, dtype=np.int64)
    for batch in batches:
        for number, path in zip(batch.documents, classifier.paths(batch), strict=True):
            text = texts[number]
            parts = character_segments(text.text, text.offsets, scheme, path)
            found = [Span(part.start, part.end, part.label) for part in parts]
            counts += strict_counts(documents[number].spans, found, scheme.labels).sum(0)
    return counts
