"""PII classifiers for an existing SAE, trained and scored in one process without Ray.

The main job trains them in Ray tasks instead (`ray_jobs.pii.job`).
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from data.errors import ConfigError
from data.storage import Store
from data.storage.probe import probed
from ray_jobs.activations.dataset import SPLITS, DataConfig, open_dataset
from ray_jobs.activations.host_model import HostModel
from ray_jobs.pii.classifier import Origin
from ray_jobs.pii.config import HostConfig, ProbeConfig
from ray_jobs.pii.detector import CLASSIFIERS_NAME, LATENTS, RAW, SAE_NAME
from ray_jobs.pii.evaluation import table
from ray_jobs.pii.features import check_fits
from ray_jobs.pii.training import (
    Labelled,
    evaluate_classifier,
    progress_lines,
    run_over,
    train_classifier,
)
from ray_jobs.results.run_directory import (
    MANIFEST,
    code_identity,
    is_complete,
    read_manifest,
    write_manifest,
)
from ray_jobs.sae.export import load_sae
from ray_jobs.sae.model import TopKSAE

logger = logging.getLogger(__name__)

JOB = "ray_jobs.pii.train"
EVALUATION_NAME = "evaluation.json"


def run(config: ProbeConfig, data: DataConfig, host_config: HostConfig) -> None:
    """Run the host model, train both classifiers and score them on the test split.

    Leaves a run directory that the detector opens. Idempotent: a complete run is not repeated.

    Raises:
        StorageError: the output directory cannot be written, found before the host model runs.
        ConfigError: it holds another job's run. DataError: the files do not belong together.
    """
    with probed([host_config.output_dir]):
        pass
    sae = load_sae(host_config.sae)
    host = HostModel(
        host_config.model, host_config.layer, dtype=host_config.dtype, device=host_config.device
    )
    check_fits(sae, host, host_config.sae)
    dataset = open_dataset(data, Path(host_config.cache_dir))
    origin = Origin(host.name, host.layer, host.dtype, host.fingerprint, sae.fingerprint)
    about = {
        "job": JOB,
        "probe": asdict(config),
        "origin": asdict(origin),
        "data": dataset.sha256,
        **code_identity(),
    }
    store = Store.open(host_config.output_dir)
    _own_directory(store)
    if is_complete(store, about):
        logger.info("pii    %s: already complete", store.uri)
        return
    parts = [
        run_over(host, dataset.labelled[split] + dataset.prose[split], split) for split in SPLITS
    ]
    store.write_json(EVALUATION_NAME, _train_both(store, parts, sae, origin, config))
    store.write_bytes(SAE_NAME, Path(host_config.sae).read_bytes())
    write_manifest(store, about)


def _own_directory(store: Store) -> None:
    """Raises ConfigError where another job's results lie, of which this one's would be half."""
    if store.exists(MANIFEST) and read_manifest(store).run.get("job") != JOB:
        raise ConfigError(
            "output_dir", f"{store.label} holds the run of another job; give a directory of its own"
        )


def _train_both(
    store: Store, parts: Sequence[Labelled], sae: TopKSAE, origin: Origin, config: ProbeConfig
) -> dict[str, Any]:
    """Save both classifiers; `Evaluation.to_json()` of each on the test part."""
    train, validation, test = parts
    sinks = train.tokens.sink_rule()
    scores = {}
    for name, encoder in ((LATENTS, sae), (RAW, None)):
        its_origin = origin if encoder else replace(origin, encoder=RAW)
        report = progress_lines(name, config.epochs * len(train.tokens))
        classifier = train_classifier(train, validation, encoder, its_origin, config, report, sinks)
        classifier.save(store.child(CLASSIFIERS_NAME, name))
        evaluation = evaluate_classifier(classifier, encoder, test, config.seed)
        logger.info("%s on %d test documents\n%s", name, evaluation.documents, table(evaluation))
        scores[name] = evaluation.to_json()
    return scores
