"""Checkpoints of a training in a directory or bucket; one counts only once it is committed.

A training loop uses `Saving` (saving.py): it saves in the background when a checkpoint is due and
loads the newest one that verifies. `CheckpointStore` (store.py) writes, commits, verifies and
prunes; layout.py has the names and JSON documents of a checkpoint, state.py what it may hold.
"""

from ray_jobs.checkpoint.layout import CheckpointInfo
from ray_jobs.checkpoint.saving import BackgroundSaver, Check, SaveResult, Saving
from ray_jobs.checkpoint.store import CheckpointStore, Readers

__all__ = [
    "BackgroundSaver",
    "Check",
    "CheckpointInfo",
    "CheckpointStore",
    "Readers",
    "SaveResult",
    "Saving",
]
