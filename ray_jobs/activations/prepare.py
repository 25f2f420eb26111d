"""Preparation of a training's data: the texts, and the activations of each split."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data.storage import Store
from ray_jobs.activations.dataset import SPLITS, DataConfig, Dataset, open_dataset
from ray_jobs.activations.harvest import HarvestProgress, harvest
from ray_jobs.activations.harvest_pool import HarvestPool
from ray_jobs.activations.shards import ActivationSet
from ray_jobs.runtime.cluster import check_output_locations
from ray_jobs.runtime.fit import worker_needs
from ray_jobs.runtime.options import JobOptions
from ray_jobs.runtime.progress import clock_time

logger = logging.getLogger(__name__)

PROGRESS_INTERVAL_S = 2.0


@dataclass(frozen=True)
class Prepared:
    """A data set and the activation set of each of its splits (labelled texts, then prose)."""

    dataset: Dataset
    activations: dict[str, ActivationSet]


def cache_dir(options: JobOptions) -> Path:
    """Where this machine keeps built texts and fetched shards."""
    if "://" not in options.storage_uri:
        return Path(options.storage_uri).resolve() / "cache"
    return Path.home() / ".cache" / "raylambda"


def prepare(
    data: DataConfig,
    options: JobOptions,
    *,
    model: str,
    layer: int,
    dtype: str,
    shard_rows: int,
    watch: Callable[[], None] = lambda: None,
) -> Prepared:
    """Build or read the texts and harvest every split; what is there already is reused.

    `watch` is called every few seconds of the harvest; what it raises breaks it off.

    Ray is initialised. Errors: before anything is done, RefusedError for training workers that
    would never find room and those of `check_output_locations`; then those of `open_dataset`
    and `harvest`.
    """
    started_s = time.monotonic()
    on_gpus = "GPU" in worker_needs(options)
    with check_output_locations(options.output_dir, options.storage) as probe:
        dataset = open_dataset(data, cache_dir(options))
        counts = ", ".join(f"{split} {len(dataset.labelled[split]):,}" for split in SPLITS)
        logger.info("data   %s: %s", dataset.source, counts)
        store = Store.open(options.storage_uri).child("activations")
        # One pool: an actor's start costs as much as some ten thousand tokens. As many actors as
        # the training will have workers: nodes that they make an autoscaler start serve both.
        _, workers = options.worker_range
        with HarvestPool(
            model,
            layer,
            dtype=dtype,
            at_least=workers,
            use_gpu=on_gpus,
            probe=probe,
            watch=watch,
        ) as pool:
            sets = {
                split: harvest(
                    dataset.texts(split),
                    data_sha256=dataset.split_sha256(split),
                    model=model,
                    layer=layer,
                    store=store,
                    dtype=dtype,
                    shard_rows=shard_rows,
                    pool=pool,
                    on_progress=_Lines(split),
                )
                for split in SPLITS
            }
    logger.info("data   ready after %s", clock_time(time.monotonic() - started_s))
    return Prepared(dataset, sets)


class _Lines:
    """Progress of a harvest, a line every few seconds."""

    def __init__(self, split: str) -> None:
        self._split = split
        self._shown_s = 0.0

    def __call__(self, progress: HarvestProgress) -> None:
        now_s = time.monotonic()
        if now_s - self._shown_s < PROGRESS_INTERVAL_S:
            return
        self._shown_s = now_s
        logger.info(
            "host   %s: %s/%s tokens  %s  %s left",
            self._split,
            f"{progress.rows_done:,}",
            f"{progress.rows_total:,}",
            "-" if progress.rows_per_s is None else f"{progress.rows_per_s:,.0f} tokens/s",
            "-" if progress.left_s is None else clock_time(progress.left_s),
        )
