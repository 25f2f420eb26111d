"""Restarts: the checkpoints that a run resumes from, and the OOM backoff of its micro batches.

A run's checkpoints lie below a digest of its identity (config, model, data), so another run's are
never resumed from; what differs is said. Those of a version in which fields of the config had other
names are found by what they record.

Out of memory, a worker cannot retry by itself: the others wait for it within a collective, and what
ZeRO 3 had gathered is lost. So the run ends on every worker, and all of them restart from the
newest checkpoint with twice the gradient accumulation, which makes the decision everybody's. The
effective batch, and with it the outcome up to rounding, stays the same. That this happens within
the first step, and not at the longest dialogue of the third hour, is `Learner.preflight`'s doing.
Sampling needs no restart: within a gathered model it is no collective, so a worker without memory
for all its replies generates fewer at once (`rollout.hf.GenerationBatchSize`).
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from data.errors import ConfigError, DataError, MicroBatchError
from data.storage import Store
from ray_jobs.checkpoint import CheckpointStore
from ray_jobs.cli import ALIASES
from ray_jobs.results.run_directory import digest_of
from ray_jobs.waltzrl.training.loop import WaltzTask

logger = logging.getLogger(__name__)

PREFIX = "waltz-"
_NAMES = {"model": "base model or tokenizer", "prompts": "prompts"}


def checkpoint_store(storage: Store, identity: Mapping[str, Any]) -> Store:
    """Where the checkpoints of the run with this identity are, or will be."""
    own = storage.child("checkpoints", PREFIX + digest_of(identity))
    if own.files():
        return own
    same = (run for run, other in _recorded_runs(storage) if not _differences(identity, other))
    return next(same, own)


def check_resume(storage: Store, identity: Mapping[str, Any]) -> None:
    """Refuse to resume from a storage that has no checkpoint of this run (`--resume-from`).

    Raises:
        DataError: with what differs between this run and the ones that are there.
    """
    if checkpoint_store(storage, identity).files():
        return
    nearest = nearest_differences(storage, identity)
    if nearest is None:
        raise DataError(f"{storage.label}: no checkpoint of a WaltzRL run to resume from")
    raise DataError(
        f"{storage.label}: its checkpoints are of another run ({', '.join(nearest)}); give the "
        "same configuration and data, or another --output-dir without --resume-from"
    )


def warn_of_new_start(storage: Store, identity: Mapping[str, Any]) -> None:
    """Warn that a run starts anew although the storage has checkpoints of another."""
    if checkpoint_store(storage, identity).files():
        return
    nearest = nearest_differences(storage, identity)
    if nearest is not None:
        logger.warning(
            "waltz  warning: %s has checkpoints of another run (%s): this one starts anew",
            *(storage.label, ", ".join(nearest)),
        )


def nearest_differences(storage: Store, identity: Mapping[str, Any]) -> list[str] | None:
    """What differs from the most similar run with checkpoints there; None if there is none."""
    differences = [_differences(identity, other) for _, other in _recorded_runs(storage)]
    return min(differences, key=len, default=None)


def _recorded_runs(storage: Store) -> Iterator[tuple[Store, dict[str, Any]]]:
    """Every run with checkpoints in the storage, with the identity that they record."""
    checkpoints = storage.child("checkpoints")
    for name in checkpoints.directories():
        run = checkpoints.child(name)
        metadata = _metadata(run) if name.startswith(PREFIX) else None
        if metadata is not None:
            yield run, metadata


def _metadata(run: Store) -> dict[str, Any] | None:
    """What the newest committed checkpoint of any stage says of its run."""
    for stage in reversed(run.directories()):
        committed = CheckpointStore(run.child(stage)).committed()
        if committed:
            return committed[0].metadata
    return None


def _differences(mine: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    fields = mine["waltzrl"]
    others = {ALIASES.get(name, name): value for name, value in other.get("waltzrl", {}).items()}
    found = [
        f"{name}: {others.get(name)!r} there, {fields.get(name)!r} here"
        for name in {**fields, **others}
        if others.get(name) != fields.get(name)
    ]
    return found + [f"other {word}" for key, word in _NAMES.items() if mine[key] != other.get(key)]


def fit_in_memory(fit: Callable[[WaltzTask], object], task: WaltzTask) -> None:
    """OOM backoff: call `fit`, doubling the gradient accumulation until its micro batches fit.

    Raises:
        ConfigError: not even one sample at a time fits.
    """
    while True:
        try:
            fit(task)
        except MicroBatchError as error:
            task = _halve_micro_batch(task, error)
        else:
            return


def _halve_micro_batch(task: WaltzTask, error: MicroBatchError) -> WaltzTask:
    parts = 2 * task.config.gradient_accumulation
    if error.rows == 1:
        raise ConfigError(
            "zero_stage",
            f"one sample at a time does not fit into a worker's memory with ZeRO "
            f"{task.config.zero_stage}: give zero_stage 3, gradient_checkpointing, "
            "offload_optimizer, more workers, or fewer max_answer_tokens",
        ) from error
    logger.warning(
        "waltz  %s: restarting with gradient_accumulation %d, at most %d at once; "
        "the effective batch stays %d",
        *(error, parts, -(-error.rows // 2), task.config.batch_size),
    )
    return dataclasses.replace(
        task, config=dataclasses.replace(task.config, gradient_accumulation=parts)
    )
