"""An SAE training as a job on Ray: activations, then Ray Train, then a manifest over the results.

The command calls `run`; the pipeline and the sweep call the parts.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data.errors import ConfigError
from data.storage import Store
from ray_jobs.activations.dataset import DataConfig
from ray_jobs.activations.prepare import Prepared, cache_dir, prepare
from ray_jobs.results.run_directory import (
    code_identity,
    digest_of,
    drop_manifest,
    is_complete,
    write_manifest,
)
from ray_jobs.runtime.fit import fit
from ray_jobs.runtime.options import JobOptions
from ray_jobs.runtime.progress import clock_time, relay_lines
from ray_jobs.sae.config import PROBE_METRICS, SAEConfig
from ray_jobs.sae.loop import FINAL_MODEL, HISTORY, SAETask, epoch_model, train_loop

logger = logging.getLogger(__name__)

FIELDS_SAFE_TO_CHANGE_ON_RESUME = (
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
    "keep_checkpoints",
)
"""Fields that may change between two starts of one training."""


def prepare_for(
    config: SAEConfig,
    data: DataConfig,
    options: JobOptions,
    watch: Callable[[], None] = lambda: None,
) -> Prepared:
    """Texts and activations that `config` trains on; `watch` as in `prepare`."""
    return prepare(
        data,
        options,
        model=config.model,
        layer=config.layer,
        dtype=config.dtype,
        shard_rows=config.shard_rows,
        watch=watch,
    )


def run_identity(config: SAEConfig, prepared: Prepared) -> dict[str, Any]:
    """Everything that decides the weights of the SAE."""
    spec = prepared.activations["train"].manifest.spec
    fields = dataclasses.asdict(config)
    for name in FIELDS_SAFE_TO_CHANGE_ON_RESUME:
        del fields[name]
    return {"sae": fields, "host": dataclasses.asdict(spec), "data": prepared.dataset.source}


def run(config: SAEConfig, data: DataConfig, options: JobOptions) -> dict[str, Any]:
    """Prepare, train and write the manifest, or only summarise a run that is already complete.

    Ray is initialised. Idempotent; returns and raises as `train_sae`.
    """
    prepared = prepare_for(config, data, options)
    output = Store.open(options.output_dir)
    about = {**run_identity(config, prepared), **code_identity()}
    if is_complete(output, about):
        logger.info("sae    %s: already complete", output.uri)
        return summary(output.read_json(HISTORY))
    result = train_sae(config, prepared, options)
    finish_run(output, config, prepared, about)
    return result


def train_sae(config: SAEConfig, prepared: Prepared, options: JobOptions) -> dict[str, Any]:
    """Train, or resume training, and leave `sae_final.pt` and `training_history.json`.

    Idempotent: the checkpoints are found by what decides the weights, so that a repeated call
    resumes where the last one ended and a changed config starts from the beginning.

    Returns:
        The contract's summary: fvu, dead_share, steps, stopped_early.
    """
    if config.early_stopping_metric in PROBE_METRICS:
        raise ConfigError(
            "early_stopping_metric",
            f"{config.early_stopping_metric} is measured in sweeps only; give fvu or loss",
        )
    output = Store.open(options.output_dir)
    drop_manifest(output)
    identity = run_identity(config, prepared)
    checkpoints = Store.open(options.storage_uri).child("checkpoints", digest_of(identity))
    task = SAETask(
        config=config,
        train=prepared.activations["train"],
        held_out=prepared.activations["validation"],
        checkpoints=checkpoints,
        output=output,
        cache_dir=cache_dir(options) / "shards",
        price_cents_per_hour=options.price_cents_per_hour,
        identity={**identity, **code_identity()},
    )
    started_s = time.monotonic()
    with relay_lines() as board:
        fit(train_loop, {"sae": task}, options, board)
    logger.info("sae    trained in %s", clock_time(time.monotonic() - started_s))
    return summary(output.read_json(HISTORY))


def finish_run(
    output: Store,
    config: SAEConfig,
    prepared: Prepared,
    about: Mapping[str, Any],
    others: Sequence[str] = (),
) -> None:
    """Write the manifest over the results that `train_sae` left, and over `others`.

    The manifest names as `trained_by` the sources that took the steps, which may be older than
    those that wrote the results.
    """
    history = output.read_json(HISTORY)
    steps_per_epoch = prepared.activations["train"].n_ordinary // config.batch_size
    epochs = range(1, history["stopped"]["step"] // steps_per_epoch + 1)
    # Not of an earlier run in this directory, which may have had more of them.
    names = [FINAL_MODEL, HISTORY, *(epoch_model(epoch) for epoch in epochs)]
    found = {"trained_by": history["code_sha256"], "sinks": history["sinks"]}
    write_manifest(output, {**about, **found}, [*names, *others])


def summary(history: dict[str, Any]) -> dict[str, Any]:
    """The numbers that stand for a training."""
    return {
        "fvu": history["checks"][-1]["fvu"],
        "dead_share": history["dead_share"][-1],
        "steps": history["stopped"]["step"],
        "stopped_early": history["stopped"]["early"],
    }
