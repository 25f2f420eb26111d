"""Files in directories and buckets.

`Store` (store.py) reads and writes them: hashed, verified against a `FileRecord`, retried while
the transfer makes progress. Below it lie the URI (location.py), the pyarrow filesystem
(filesystem.py), the transfer of one file (transfer.py) and the words of errors (problems.py).
`probe.py` checks at a job's start that all nodes share its directories; `python -m data.storage
doctor URI` checks a location from the command line.
"""

from data.storage.filesystem import open_filesystem
from data.storage.store import Store
from data.storage.transfer import FileRecord

__all__ = ["FileRecord", "Store", "open_filesystem"]
