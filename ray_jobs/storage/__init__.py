"""Files in directories and buckets: `Store` and the `FileRecord` that proves a file."""

from ray_jobs.storage.filesystem import open_filesystem
from ray_jobs.storage.store import Store
from ray_jobs.storage.streams import FileRecord

__all__ = ["FileRecord", "Store", "open_filesystem"]
