"""Training a PII classifier: a probe fitted to labelled tokens, its threshold chosen after that."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from data.documents import Document, Span
from data.errors import DataError
from ray_jobs.activations.host_model import HostModel
from ray_jobs.activations.sinks import SinkRule
from ray_jobs.pii.classifier import Batch, Classifier, Origin, Text, surface_of
from ray_jobs.pii.config import ProbeConfig
from ray_jobs.pii.evaluation import Evaluation, evaluate
from ray_jobs.pii.features import Features, HostTokens, features_of, run_host
from ray_jobs.pii.metrics import f_score, strict_counts
from ray_jobs.pii.probes import TaggedTokens, fit
from ray_jobs.pii.spans import TagScheme, character_segments
from ray_jobs.runtime.progress import Progress
from ray_jobs.sae.model import TopKSAE

logger = logging.getLogger(__name__)

_DOCUMENTS_AT_ONCE = 256

LOG_ODDS = np.linspace(-4.0, 4.0, 17)
"""Candidates: log(threshold / (1 - threshold)); 0 is the plain Viterbi path."""


@dataclass(frozen=True)
class Labelled:
    """Labelled documents and what the host model made of their texts, in the same order."""

    documents: Sequence[Document]
    tokens: HostTokens

    def texts(self) -> list[Text]:
        offsets = self.tokens.document_offsets()
        return [Text(d.text, o) for d, o in zip(self.documents, offsets, strict=True)]


def train_classifier(
    train: Labelled,
    validation: Labelled,
    sae: TopKSAE | None,
    origin: Origin,
    config: ProbeConfig,
    report: Callable[[int, int, float], None] | None = None,
    sinks: SinkRule | None = None,
) -> Classifier:
    """A classifier on the latents of `sae`, or on raw activations without one.

    Trained on `train`; its threshold is chosen on `validation`. Deterministic.
    Raises DataError when no training document has a span that a token covers.
    """
    labels = sorted({span.label for document in train.documents for span in document.spans})
    if not labels:
        raise DataError(
            f"no span in {len(train.documents)} training documents; PII classifiers need labels"
        )
    scheme = TagScheme(tuple(labels))
    offsets = train.tokens.document_offsets()
    tags = [
        torch.from_numpy(scheme.encode(document.spans, o))
        for document, o in zip(train.documents, offsets, strict=True)
    ]
    features = features_of(train.tokens.activations, sae, sinks)
    surface = surface_of(train.texts())
    data = TaggedTokens(features, surface, torch.cat(tags), train.tokens.lengths)
    probe = fit(data, scheme, config, config.raw if sae is None else config.latents, report)
    classifier = Classifier(probe, 0.5, origin, sinks)
    return choose_threshold(
        classifier,
        validation.documents,
        validation.texts(),
        classifier.features(validation.tokens.activations, sae),
        config.recall_weight,
    )


def evaluate_classifier(
    classifier: Classifier, sae: TopKSAE | None, test: Labelled, seed: int = 0
) -> Evaluation:
    """Score a classifier on documents that the host model has been run over already.

    `sae` is the one it was trained with; None for the classifier on raw activations.
    """
    features = classifier.features(test.tokens.activations, sae)
    found = classifier.spans(test.texts(), features)
    return evaluate(test.documents, found, test.tokens.lengths, seed)


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


def run_over(host: HostModel, documents: Sequence[Document], name: str) -> Labelled:
    """Run the host model over documents in this process, with progress lines."""
    progress = Progress(len(documents), "documents")
    parts = []
    for first in range(0, len(documents), _DOCUMENTS_AT_ONCE):
        some = documents[first : first + _DOCUMENTS_AT_ONCE]
        parts.append(run_host(host, [document.text for document in some]))
        logger.info("host model over %s  %s", name, progress.line(first + len(some)))
    return Labelled(documents, HostTokens.concat(parts))


def progress_lines(name: str, tokens: int) -> Callable[[int, int, float], None]:
    """A `report` for `train_classifier` that logs rate and time left once an epoch."""
    progress = Progress(tokens, "tokens")

    def report(done: int, total: int, loss: float) -> None:
        logger.info("pii    %-7s  %s  loss %.4f", name, progress.line(done), loss)

    return report
