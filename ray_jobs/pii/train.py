"""Train PII classifiers on a SAE's latents and, beside them, on raw activations.

python -m ray_jobs.pii.train --recipe demo --sae runs/demo/sae_final.pt --output-dir runs/pii
python -m ray_jobs.pii.train --data own.jsonl --sae runs/demo/sae_final.pt --output-dir runs/own
"""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.command_line import run_main
from data.documents import Document, Span
from data.errors import ConfigError, DataError
from data.storage import Store
from data.storage.probe import probed
from ray_jobs.activations.dataset import SPLITS, DataConfig, open_dataset
from ray_jobs.activations.host_model import HostModel
from ray_jobs.cli import parse_recipe
from ray_jobs.pii.classifier import RAW, Batch, Classifier, Origin, Text, surface_of
from ray_jobs.pii.config import HostConfig, ProbeConfig
from ray_jobs.pii.detector import CLASSIFIERS_NAME, LATENTS, SAE_NAME
from ray_jobs.pii.evaluation import Evaluation, evaluate, strict_f1, table
from ray_jobs.pii.features import Features, check_fits, features_of
from ray_jobs.pii.metrics import f_score, strict_counts
from ray_jobs.pii.probes import TaggedTokens, fit
from ray_jobs.pii.spans import TagScheme, character_segments
from ray_jobs.pii.tokens import HostTokens, run_host
from ray_jobs.results.run_directory import MANIFEST, code_identity, is_complete, write_manifest
from ray_jobs.runtime.progress import Progress, log_to_stdout
from ray_jobs.sae.model import TopKSAE, load_sae

# The threshold of a classifier, chosen on validation documents.

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


logger = logging.getLogger(__name__)

JOB = "ray_jobs.pii.train"
EVALUATION_NAME = "evaluation.json"
_DOCUMENTS_AT_ONCE = 256


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
    features = features_of(train.tokens.activations, sae)
    surface = surface_of(train.texts())
    data = TaggedTokens(features, surface, torch.cat(tags), train.tokens.lengths)
    probe = fit(data, scheme, config, config.raw if sae is None else config.latents, report)
    return choose_threshold(
        Classifier(probe, 0.5, origin),
        validation.documents,
        validation.texts(),
        features_of(validation.tokens.activations, sae),
        config.recall_weight,
    )


def evaluate_classifier(
    classifier: Classifier, sae: TopKSAE | None, test: Labelled, seed: int = 0
) -> Evaluation:
    """Score a classifier on documents that the host model has been run over already.

    `sae` is the one it was trained with; None for the classifier on raw activations.
    """
    features = features_of(test.tokens.activations, sae)
    found = classifier.spans(test.texts(), features)
    return evaluate(test.documents, found, test.tokens.lengths, seed)


def run_over(host: HostModel, documents: Sequence[Document], name: str) -> Labelled:
    """Run the host model over documents in this process, with progress lines."""
    progress = Progress(len(documents), "documents")
    parts = []
    for first in range(0, len(documents), _DOCUMENTS_AT_ONCE):
        some = documents[first : first + _DOCUMENTS_AT_ONCE]
        parts.append(run_host(host, [document.text for document in some]))
        logger.info("host model over %s  %s", name, progress.line(first + len(some)))
    return Labelled(documents, HostTokens.concat(parts))


def recipe(documents: int) -> tuple[ProbeConfig, DataConfig, HostConfig]:
    """The configs of a recipe."""
    return ProbeConfig(), DataConfig(documents=documents), HostConfig()


RECIPES = {"demo": lambda: recipe(4000), "small": lambda: recipe(24_000)}


def main(arguments: list[str]) -> None:
    """Run the host model, train both classifiers, score them on the test split; leaves a run
    directory that the detector opens. A run that is whole already is not made again."""
    (config, data, job), as_json = parse_recipe(arguments, "python -m ray_jobs.pii.train", RECIPES)
    for name in ("sae", "output_dir"):
        if not getattr(job, name):
            raise ConfigError(f"--{name.replace('_', '-')}", "must be given")
    log_to_stdout()
    with probed([job.output_dir]):  # told now, not after the host model has run
        pass
    sae = load_sae(job.sae)
    host = HostModel(job.model, job.layer, dtype=job.dtype, device=job.device)
    check_fits(sae, host, job.sae)
    dataset = open_dataset(data, Path(job.cache_dir))
    origin = Origin(host.name, host.layer, host.dtype, host.fingerprint, sae.fingerprint)
    about = {
        "job": JOB,
        "probe": asdict(config),
        "origin": asdict(origin),
        "data": dataset.sha256,
        **code_identity(),
    }
    store = Store.open(job.output_dir)
    _own_directory(store)
    if is_complete(store, about):
        logger.info("pii    %s is whole: nothing to do", store.uri)
    else:
        parts = [
            run_over(host, dataset.labelled[split] + dataset.prose[split], split)
            for split in SPLITS
        ]
        store.write_json(EVALUATION_NAME, _train_both(store, parts, sae, origin, config))
        store.write_bytes(SAE_NAME, Path(job.sae).read_bytes())
        write_manifest(store, about)
    _show(store, as_json)


def _own_directory(store: Store) -> None:
    """Raises ConfigError where another job's results lie, of which this one's would be half."""
    if store.exists(MANIFEST) and store.read_json(MANIFEST)["run"].get("job") != JOB:
        raise ConfigError(
            "output_dir", f"{store.label} holds the run of another job; give a directory of its own"
        )


def _train_both(
    store: Store, parts: Sequence[Labelled], sae: TopKSAE, origin: Origin, config: ProbeConfig
) -> dict[str, Any]:
    """Save both classifiers; `Evaluation.to_json()` of each on the test part."""
    train, validation, test = parts
    scores = {}
    for name, encoder in ((LATENTS, sae), (RAW, None)):
        its_origin = origin if encoder else replace(origin, encoder=RAW)
        report = progress_lines(name, config.epochs * len(train.tokens))
        classifier = train_classifier(train, validation, encoder, its_origin, config, report)
        classifier.save(store.child(CLASSIFIERS_NAME, name))
        evaluation = evaluate_classifier(classifier, encoder, test, config.seed)
        logger.info("%s on %d test documents\n%s", name, evaluation.documents, table(evaluation))
        scores[name] = evaluation.to_json()
    return scores


def _show(store: Store, as_json: bool) -> None:
    f1 = {name: strict_f1(score) for name, score in store.read_json(EVALUATION_NAME).items()}
    if as_json:
        sys.stdout.write(json.dumps({"f1": f1}) + "\n")
    else:
        shown = ", ".join(f"{name} {score['overall'] or 0:.3f}" for name, score in f1.items())
        logger.info("pii    strict F1: %s", shown)
        logger.info("pii    %s/%s", store.uri, CLASSIFIERS_NAME)


def progress_lines(name: str, tokens: int) -> Callable[[int, int, float], None]:
    """A `report` for `train_classifier` that logs rate and time left once an epoch."""
    progress = Progress(tokens, "tokens")

    def report(done: int, total: int, loss: float) -> None:
        logger.info("pii    %-7s  %s  loss %.4f", name, progress.line(done), loss)

    return report


if __name__ == "__main__":
    run_main(main)
