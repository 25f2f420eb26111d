"""Train PII classifiers on a SAE's latents and, beside them, on raw activations.

python -m ray_jobs.pii.train --recipe demo --sae runs/demo/sae_final.pt --output-dir runs/pii
python -m ray_jobs.pii.train --data own.jsonl --sae runs/demo/sae_final.pt --output-dir runs/own
"""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from data.documents import Document
from ray_jobs.activations.host_model import HostModel
from ray_jobs.cli import parse_recipe, run_main
from ray_jobs.dataset import SPLITS, DataConfig, open_dataset
from ray_jobs.errors import ConfigError, DataError
from ray_jobs.pii.classifier import RAW, Classifier, Origin, Text, surface_of
from ray_jobs.pii.config import HostConfig, ProbeConfig
from ray_jobs.pii.detector import CLASSIFIERS_NAME, LATENTS
from ray_jobs.pii.evaluation import Evaluation, evaluate, table
from ray_jobs.pii.features import check_fits, features_of
from ray_jobs.pii.probes import TaggedTokens, fit
from ray_jobs.pii.spans import TagScheme
from ray_jobs.pii.thresholds import choose_threshold
from ray_jobs.pii.tokens import HostTokens, run_host
from ray_jobs.progress import Progress, log_to_stdout
from ray_jobs.sae.model import TopKSAE, load_sae
from ray_jobs.storage import Store

logger = logging.getLogger(__name__)

EVALUATION_NAME = "pii_evaluation.json"
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
    """Run the host model, train both classifiers, save them, score them on the test split."""
    configs, as_json = parse_recipe(arguments, "python -m ray_jobs.pii.train", RECIPES)
    config, data, job = configs
    for name in ("sae", "output_dir"):
        if not getattr(job, name):
            raise ConfigError(f"--{name.replace('_', '-')}", "must be given")
    log_to_stdout()
    store = Store.open(job.output_dir)
    dataset = open_dataset(data, Path(job.cache_dir))
    sae = load_sae(job.sae)
    host = HostModel(job.model, job.layer, dtype=job.dtype, device=job.device)
    check_fits(sae, host, job.sae)
    train, validation, test = (
        run_over(host, dataset.labelled[split] + dataset.prose[split], split) for split in SPLITS
    )
    origin = Origin(host.name, host.layer, host.dtype, host.fingerprint, sae.fingerprint)
    scores = {}
    for name, encoder in ((LATENTS, sae), (RAW, None)):
        its_origin = origin if encoder else replace(origin, encoder=RAW)
        report = progress_lines(name, config.epochs * len(train.tokens))
        classifier = train_classifier(train, validation, encoder, its_origin, config, report)
        classifier.save(store.child(CLASSIFIERS_NAME, name))
        scores[name] = evaluate_classifier(classifier, encoder, test, config.seed)
    store.write_json(EVALUATION_NAME, {name: score.to_json() for name, score in scores.items()})
    for name, score in scores.items():
        sys.stdout.write(f"\n{name} on {score.documents} test documents\n{table(score)}\n")
    if as_json:
        f1 = {name: score.f1() for name, score in scores.items()}
        sys.stdout.write(json.dumps({"f1": f1}) + "\n")


def progress_lines(name: str, tokens: int) -> Callable[[int, int, float], None]:
    """A `report` for `train_classifier` that logs rate and time left once an epoch."""
    progress = Progress(tokens, "tokens")

    def report(done: int, total: int, loss: float) -> None:
        logger.info("pii    %-7s  %s  loss %.4f", name, progress.line(done), loss)

    return report


if __name__ == "__main__":
    run_main(main)
