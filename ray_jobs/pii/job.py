"""The PII classifiers of the main job: both trained at once, each in a Ray task of its own."""

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from data.documents import Document
from data.errors import JobError
from data.storage import Store
from ray_jobs.activations.prepare import Prepared
from ray_jobs.pii.classifier import Origin
from ray_jobs.pii.config import ProbeConfig
from ray_jobs.pii.detector import CLASSIFIERS_NAME, LATENTS, RAW, SAE_NAME
from ray_jobs.pii.features import read_tokens
from ray_jobs.pii.training import Labelled, evaluate_classifier, progress_lines, train_classifier
from ray_jobs.runtime.progress import log_to_relay, relay_lines
from ray_jobs.sae.export import load_sae
from ray_jobs.sae.model import TopKSAE


@dataclass(frozen=True)
class ProbeTask:
    """What a task is given; small but for the documents, which travel as one object."""

    name: str
    """ "latents" or "raw"."""
    prepared: Prepared
    run: Store
    config: ProbeConfig


def train_and_evaluate(prepared: Prepared, run: Store, config: ProbeConfig) -> dict[str, Any]:
    """Train the classifiers on the latents of `run`'s SAE and on raw activations, and test both.

    Leaves `classifiers/latents/` and `classifiers/raw/` in the run directory. Deterministic.

    Returns:
        `Evaluation.to_json()` by probe, "latents" first.
    """
    with relay_lines() as relay:
        tasks = [ProbeTask(name, prepared, run, config) for name in (LATENTS, RAW)]
        running = [_probe.remote(task, relay) for task in tasks]
        try:
            results = ray.get(running)
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, JobError) else error from None
    return {task.name: result for task, result in zip(tasks, results, strict=True)}


@ray.remote(num_cpus=1, max_retries=3)
def _probe(task: ProbeTask, relay: ray.actor.ActorHandle) -> dict[str, Any]:
    log_to_relay(relay)
    torch.set_num_threads(1)
    sae = _fetch_sae(task.run)
    encoder = sae if task.name == LATENTS else None
    spec = task.prepared.activations["train"].manifest.spec
    origin = Origin(
        host=spec.model,
        layer=spec.layer,
        dtype=spec.dtype,
        host_fingerprint=spec.fingerprint,
        encoder=RAW if encoder is None else sae.fingerprint,
    )
    train = labelled(task.prepared, "train")
    report = progress_lines(task.name, task.config.epochs * len(train.tokens))
    validation = labelled(task.prepared, "validation")
    sinks = task.prepared.activations["train"].sink_rule
    classifier = train_classifier(train, validation, encoder, origin, task.config, report, sinks)
    classifier.save(task.run.child(CLASSIFIERS_NAME, task.name))
    test = labelled(task.prepared, "test")
    return dataclasses.asdict(evaluate_classifier(classifier, encoder, test, task.config.seed))


def labelled(prepared: Prepared, split: str) -> Labelled:
    """Documents of a split with their activations; clean prose stands among them, unlabelled."""
    documents: list[Document] = prepared.dataset.labelled[split] + prepared.dataset.prose[split]
    return Labelled(documents, read_tokens(prepared.activations[split], 0, len(documents)))


def _fetch_sae(run: Store) -> TopKSAE:
    with tempfile.TemporaryDirectory(prefix="raylambda-") as scratch:
        local = Path(scratch) / SAE_NAME
        run.fetch(SAE_NAME, local)
        return load_sae(local)
