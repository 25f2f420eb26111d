"""Files in directories and buckets: `Store` and the `FileRecord` that proves a file."""

from data.storage.filesystem import open_filesystem
from data.storage.store import Store
from data.storage.streams import FileRecord

__all__ = ["FileRecord", "Store", "open_filesystem"]
