"""Checkpoints that count only when they are whole: `CheckpointStore` and `BackgroundSaver`."""

from ray_jobs.checkpoint.background import BackgroundSaver, SaveResult
from ray_jobs.checkpoint.layout import CheckpointInfo
from ray_jobs.checkpoint.store import CheckpointStore

__all__ = ["BackgroundSaver", "CheckpointInfo", "CheckpointStore", "SaveResult"]
