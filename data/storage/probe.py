"""A test file in each storage location: can it be written, and do all nodes see the same files?

A job leaves the files at its start, and each worker looks for them on its own node, so that a
directory that is not shared fails at once and not hours later.
"""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from data.errors import StorageError
from data.storage.store import Store
from data.storage.transfer import PARTIAL_SUFFIX

SIZE_BYTES = 4096
"""A full disk still takes empty files."""


@dataclass(frozen=True)
class Probe:
    """The name of a test file and the stores that hold it; small to pickle, for the workers."""

    name: str
    stores: tuple[Store, ...]

    def check(self, node: str) -> None:
        """Look for the test file in every store, as `node` sees it.

        Raises:
            StorageError: a store cannot be read, or `node` sees another directory under its path.
        """
        for store in self.stores:
            if not store.exists(self.name):
                raise StorageError(
                    f"{store.label} is not shared: node {node} does not see what the job wrote "
                    "there; with several nodes give s3://bucket/path, or a directory that all "
                    "share (--output-dir, --storage)"
                )


@contextmanager
def probed(uris: Sequence[str]) -> Iterator[Probe]:
    """Keep a test file in each location until the block ends; directories that it made are
    removed again if nothing else was put into them.

    Raises:
        StorageError: a location cannot be written, or what was written is not found.
    """
    # Partial files are never listed: one that a killed process leaves is nobody's result.
    name = f"probe-{secrets.token_hex(4)}{PARTIAL_SUFFIX}"
    stores = tuple(Store.open(uri) for uri in dict.fromkeys(uris))
    made = [d for s in stores if s.is_local for d in missing_directories(Path(s.label))]
    written: list[Store] = []
    try:
        for store in stores:
            store.write_bytes(name, bytes(SIZE_BYTES))
            written.append(store)
        yield Probe(name, stores)
    finally:
        for store in written:
            with suppress(StorageError):
                store.delete(name)
        remove_empty(made)


def missing_directories(path: Path) -> list[Path]:
    """Of the path and its parents, those that do not exist; the deepest first."""
    return [directory for directory in (path, *path.parents) if not directory.exists()]


def remove_empty(directories: Sequence[Path]) -> None:
    """Remove those directories that are empty."""
    for directory in directories:
        with suppress(OSError):  # in use by now
            directory.rmdir()
