"""Shows at the start, not hours later, that places can be written and that all nodes share them."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from data.errors import StorageError
from data.storage.store import Store
from data.storage.streams import PARTIAL_SUFFIX

SIZE_BYTES = 4096
"""A full disk still takes empty files."""


@dataclass(frozen=True)
class Probe:
    """A file that one process left in each of some places; pickles small, for the others."""

    name: str
    stores: tuple[Store, ...]

    def check(self, node: str) -> None:
        """See that the places are what they are for the process that left the files.

        Raises:
            StorageError: not so here, on `node`, or a place cannot be read.
        """
        for store in self.stores:
            if not store.exists(self.name):
                raise StorageError(
                    f"{store.label} is not the same place on node {node} as it is for the job: "
                    "with several nodes give s3://bucket/path, or a directory that all share "
                    "(--output-dir, --storage)"
                )


@contextmanager
def probed(uris: Sequence[str]) -> Iterator[Probe]:
    """Leaves a file in each place until the block ends, and then no directory that it made empty.

    Raises:
        StorageError: a place cannot be written, or what was written is not found.
    """
    # Never listed, so that one that a killed process leaves is nobody's result.
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
    """Remove those that are empty."""
    for directory in directories:
        with suppress(OSError):  # somebody uses it by now
            directory.rmdir()
