"""Harvest: documents to an activation set, on all the CPUs or GPUs of a Ray cluster.

A shard is the unit of work: its plan decides its bytes, an actor commits it on its own, and
whoever comes later skips what is committed. So nothing has to be remembered between runs, and
a loop over `ray.wait` is enough to run it. Ray Data's actor pool was the alternative: it
brings block sizes, its own retries and its own error wrapping, and would still have to learn
which shards exist.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from data.errors import ConfigError, CorruptFileError, DataError
from data.storage import Store
from ray_jobs.activations.harvest_pool import HarvestPool
from ray_jobs.activations.harvester import RowPlan, ShardTask, plan_rows
from ray_jobs.activations.host_model import HostPlan
from ray_jobs.activations.manifest import (
    MANIFEST_NAME,
    SetManifest,
    SetSpec,
    ShardEntry,
    ShardRecord,
    mean_and_scale,
    record_name,
    shard_name,
)
from ray_jobs.activations.shards import ActivationSet
from ray_jobs.activations.sinks import sample

logger = logging.getLogger(__name__)

DEFAULT_SHARD_ROWS = 8192
"""64 MiB a shard at d_in 4096, 6 MiB at 384."""


@dataclass(frozen=True)
class HarvestProgress:
    """How far a harvest is. The rate counts only what this run computed."""

    shards_done: int
    shards_total: int
    rows_done: int
    rows_total: int
    rows_per_s: float
    left_s: float


def harvest(
    documents: Sequence[str],
    *,
    data_sha256: str,
    model: str,
    layer: int,
    store: Store,
    dtype: str = "float32",
    shard_rows: int = DEFAULT_SHARD_ROWS,
    pool: HarvestPool | None = None,
    on_progress: Callable[[HarvestProgress], None] | None = None,
) -> ActivationSet:
    """The activations of `documents` at `layer` of `model`, in a folder of their own in `store`.

    documents     texts in order; indexed a few at a time, so a lazy sequence stays lazy
    data_sha256   identity of the documents and their order, as their data set's manifest has it
    pool          actors of the same model to use; None: own ones, as many as the cluster has
                  room for

    Ray is initialised. Idempotent: a whole set is reused, of a begun one only unfinished shards
    are computed. Errors: ConfigError, DataError, NonFiniteError, StorageError; JobError when the
    harvesting processes keep dying. Committed shards stay whatever happens.
    """
    if shard_rows < 1:
        raise ConfigError("shard_rows", f"{shard_rows} is below 1")
    if pool is not None and pool.host != (model, layer, dtype):
        raise ValueError(f"the pool holds {pool.host}, not {(model, layer, dtype)}")
    host = HostPlan(model, layer, dtype=dtype)
    spec = SetSpec(model, host.description, host.fingerprint, layer, dtype, data_sha256, shard_rows)
    folder = store.child(spec.folder)
    present = set(folder.files())
    whole = _whole_set(folder, spec, present)
    if whole is not None:
        logger.info("activations: %s rows reused from %s", f"{whole.n_rows:,}", folder.uri)
        return ActivationSet(folder, whole)
    plan = plan_rows(documents, host.tokenize, shard_rows)
    finished = _finished(plan, present)
    tally = _Tally(folder, plan, finished)
    texts = tuple(documents[i] for i in sample(len(documents)))
    unfinished = [index for index in range(plan.n_shards) if index not in finished]
    with nullcontext(pool) if pool else HarvestPool(model, layer, dtype=dtype) as actors:
        for record in actors.run(folder, unfinished, lambda i: _task(documents, plan, i, texts)):
            progress = tally.add(record, time.monotonic() - actors.started_s)
            if on_progress is not None:
                on_progress(progress)
    manifest = tally.manifest(spec, host.d_in, len(documents))
    folder.write_json(MANIFEST_NAME, manifest.to_json())
    logger.info("activations: %s rows in %s", f"{manifest.n_rows:,}", folder.uri)
    if manifest.n_sinks:
        logger.warning("activations: %s", ActivationSet(folder, manifest).sinks_in_words)
    return ActivationSet(folder, manifest)


def _whole_set(folder: Store, spec: SetSpec, present: set[str]) -> SetManifest | None:
    """The folder's manifest, if it is of `spec` and no shard is missing."""
    if MANIFEST_NAME not in present:
        return None
    where = f"{folder.uri}/{MANIFEST_NAME}"
    manifest = SetManifest.from_json(folder.read_json(MANIFEST_NAME), where)
    if manifest.spec.folder != spec.folder:
        raise CorruptFileError(f"{where} is of another model or data set: delete that folder")
    missing = [i for i in range(len(manifest.shards)) if shard_name(i) not in present]
    if not missing:
        return manifest
    logger.warning("activations: %s of %s is missing", shard_name(missing[0]), folder.uri)
    folder.delete(MANIFEST_NAME)
    return None


def _finished(plan: RowPlan, present: set[str]) -> set[int]:
    """The shards whose record, and so whose bytes, an earlier run has committed."""
    finished = {
        index
        for index in range(plan.n_shards)
        if shard_name(index) in present and record_name(index) in present
    }
    if finished:
        logger.info("activations: %d of %d shards are there", len(finished), plan.n_shards)
    return finished


def _task(
    documents: Sequence[str], plan: RowPlan, index: int, sample: tuple[str, ...]
) -> ShardTask:
    # The texts travel with the task: a shard's few hundred kilobytes at a time, instead of the
    # whole corpus in every node's object store.
    shard = plan.shard(index)
    texts = list(documents[shard.first_document : shard.stop_document])
    return ShardTask(shard, texts, sample)


class _Tally:
    """Adds up records in order of shards, so that sums are the same in whatever order they come.

    Holds only the records that came too early; those of an earlier run are read one by one.
    """

    def __init__(self, folder: Store, plan: RowPlan, finished: set[int]) -> None:
        self._folder, self._plan, self._finished = folder, plan, finished
        self._early: dict[int, ShardRecord] = {}
        self._entries: list[ShardEntry] = []
        self._sum: np.ndarray | float = 0.0
        self._sum_squares = 0.0
        self._first_sinks = 0
        self._sink_radius: float | None = None
        self._shards_done = len(finished)
        self._rows_before = sum(plan.shard(index).rows for index in finished)
        self._rows_new = 0

    def add(self, record: ShardRecord, elapsed_s: float) -> HarvestProgress:
        """Count a shard that this run finished, `elapsed_s` after its first shard began."""
        self._early[record.index] = record
        self._fold()
        self._shards_done += 1
        self._rows_new += record.rows
        rate = self._rows_new / max(elapsed_s, 1e-9)
        rows_done = self._rows_before + self._rows_new
        return HarvestProgress(
            shards_done=self._shards_done,
            shards_total=self._plan.n_shards,
            rows_done=rows_done,
            rows_total=self._plan.n_rows,
            rows_per_s=rate,
            left_s=(self._plan.n_rows - rows_done) / rate,
        )

    def manifest(self, spec: SetSpec, d_in: int, n_documents: int) -> SetManifest:
        """The manifest, once every shard is finished."""
        self._fold()
        assert len(self._entries) == self._plan.n_shards, "every shard is finished"
        n_rows, n_sinks = self._plan.n_rows, sum(entry.sinks for entry in self._entries)
        if n_sinks == n_rows:
            raise DataError("every token is an attention sink: give longer texts")
        mean, scale = mean_and_scale(np.asarray(self._sum), self._sum_squares, n_rows - n_sinks)
        return SetManifest(
            spec=spec,
            d_in=d_in,
            n_documents=n_documents,
            n_rows=n_rows,
            n_sinks=n_sinks,
            n_first_sinks=self._first_sinks,
            sink_radius=self._sink_radius,
            mean=mean.tolist(),
            scale=scale,
            shards=self._entries,
        )

    def _fold(self) -> None:
        while (record := self._next()) is not None:
            self._sum = self._sum + np.array(record.sum)
            self._sum_squares += record.sum_squares
            self._first_sinks += record.first_sinks
            self._sink_radius = record.sink_radius
            self._entries.append(record.entry())

    def _next(self) -> ShardRecord | None:
        index = len(self._entries)
        if index in self._finished:
            return ShardRecord(**self._folder.read_json(record_name(index)))
        return self._early.pop(index, None)
