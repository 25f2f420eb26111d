"""Whether a storage has checkpoints of this very run, and else what differs."""

import logging
from collections.abc import Mapping
from typing import Any

from data.errors import DataError
from data.storage import Store
from ray_jobs.checkpoint import CheckpointStore
from ray_jobs.results.run_directory import digest_of

logger = logging.getLogger(__name__)

PREFIX = "waltz-"
_WORDS = {"model": "base model or tokenizer", "prompts": "prompts"}


def checkpoint_store(storage: Store, identity: Mapping[str, Any]) -> Store:
    """Where the checkpoints of the run with this identity are, or will be."""
    return storage.child("checkpoints", PREFIX + digest_of(identity))


def check_resume(storage: Store, identity: Mapping[str, Any]) -> None:
    """Refuse to go on from a storage that has no checkpoint of this run (`--resume-from`).

    Raises:
        DataError: with what differs between this run and the ones that are there.
    """
    if checkpoint_store(storage, identity).files():
        return
    nearest = nearest_differences(storage, identity)
    if nearest is None:
        raise DataError(f"{storage.label}: no checkpoint of a WaltzRL run to go on from")
    raise DataError(
        f"{storage.label}: its checkpoints are of another run ({', '.join(nearest)}); give the "
        "same configuration and data, or another --output-dir without --resume-from"
    )


def warn_of_new_start(storage: Store, identity: Mapping[str, Any]) -> None:
    """Say what differs where a run starts anew beside the checkpoints of another."""
    if checkpoint_store(storage, identity).files():
        return
    nearest = nearest_differences(storage, identity)
    if nearest is not None:
        logger.warning(
            "waltz  warning: %s has checkpoints of another run (%s): this one starts anew",
            *(storage.label, ", ".join(nearest)),
        )


def nearest_differences(storage: Store, identity: Mapping[str, Any]) -> list[str] | None:
    """What differs from the likest of the runs with checkpoints there; None if there is none."""
    checkpoints = storage.child("checkpoints")
    others = [name for name in checkpoints.directories() if name.startswith(PREFIX)]
    found = [_metadata(checkpoints.child(name)) for name in others]
    differences = [_differences(identity, other) for other in found if other is not None]
    return min(differences, key=len, default=None)


def _metadata(run: Store) -> dict[str, Any] | None:
    """What the newest committed checkpoint of any stage says of its run."""
    for stage in reversed(run.directories()):
        committed = CheckpointStore(run.child(stage)).committed()
        if committed:
            return committed[0].metadata
    return None


def _differences(mine: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    fields, others = mine["waltzrl"], other.get("waltzrl", {})
    found = [
        f"{name}: {others.get(name)!r} there, {value!r} here"
        for name, value in fields.items()
        if others.get(name) != value
    ]
    return found + [f"other {word}" for key, word in _WORDS.items() if mine[key] != other.get(key)]
