"""Checkpoints that count only when they are whole: `CheckpointStore` and `BackgroundSaver`."""

from ray_jobs.checkpoint.background import BackgroundSaver, Check, SaveResult
from ray_jobs.checkpoint.layout import CheckpointInfo
from ray_jobs.checkpoint.store import CheckpointStore, Readers

__all__ = [
    "BackgroundSaver",
    "Check",
    "CheckpointInfo",
    "CheckpointStore",
    "Readers",
    "SaveResult",
]
