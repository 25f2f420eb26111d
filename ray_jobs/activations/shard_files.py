"""A set's shards as local files: verified, and for a bucket fetched once per node and bounded."""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from data.errors import CorruptFileError
from data.storage import FileRecord, Store
from data.storage.location import parse_location
from ray_jobs.activations.manifest import SetManifest, shard_name


@dataclass(frozen=True)
class Rows:
    """Activations and where they come from.

    activations (n, d_in) bfloat16; document (n,) int32, its number in the data set;
    start, end (n,) int32: characters [start, end) of that document.
    """

    activations: Tensor
    document: Tensor
    start: Tensor
    end: Tensor

    def __len__(self) -> int:
        return len(self.activations)

    def __getitem__(self, part: slice) -> "Rows":
        """Views of a range of rows."""
        return Rows(self.activations[part], self.document[part], self.start[part], self.end[part])

    @staticmethod
    def concat(parts: "list[Rows]") -> "Rows":
        """A copy of all rows of `parts`, which are not none."""
        return Rows(
            torch.cat([part.activations for part in parts]),
            torch.cat([part.document for part in parts]),
            torch.cat([part.start for part in parts]),
            torch.cat([part.end for part in parts]),
        )


class ShardFiles:
    """Loads shards. Those of a local set are read in place; those of a bucket pass through
    `cache_dir`, which processes of one node share: each shard is fetched by the first that
    needs it, and of one set the `keep` last used stay.
    """

    def __init__(
        self, store: Store, manifest: SetManifest, *, cache_dir: Path | None, keep: int
    ) -> None:
        self._store, self._manifest, self._keep = store, manifest, keep
        location = parse_location(store.uri)
        self._is_remote = location.kind != "file"
        if self._is_remote:
            # Two places may hold sets of one name, from different processors.
            place = hashlib.sha256(store.uri.encode()).hexdigest()[:8]
            self._folder = (cache_dir or default_cache_dir()) / f"{manifest.spec.folder}-{place}"
        else:
            self._folder = Path(location.path)

    def load(self, index: int) -> Rows:
        """Shard `index`, memory-mapped, after a check of its sha256.

        Errors: CorruptFileError when a local shard is missing or altered, StorageError when
        one cannot be fetched.
        """
        name, record = shard_name(index), self._manifest.shards[index].file
        path = self._folder / name
        if not self._is_remote:
            self._verify_in_place(path, record)
            return _map(path)
        self._folder.mkdir(parents=True, exist_ok=True)
        with _locked(self._lock(path)):
            if _record_of(path) != record:
                self._store.fetch(name, path, record)
            os.utime(path)
            rows = _map(path)
        self._evict()
        return rows

    def _verify_in_place(self, path: Path, record: FileRecord) -> None:
        found = _record_of(path)
        if found != record:
            problem = "is missing" if found is None else "is not as it was written"
            raise CorruptFileError(
                f"{path} {problem}: delete it (if there) and start the harvest again, which "
                "makes that shard anew"
            )

    def _lock(self, path: Path) -> Path:
        return path.with_suffix(".lock")

    def _evict(self) -> None:
        """Delete the least recently used files. A mapped file lives on until it is let go."""
        used: list[tuple[float, Path]] = []
        for path in self._folder.glob("shard-*.safetensors"):
            try:
                used.append((path.stat().st_mtime, path))
            except FileNotFoundError:
                continue  # another process of this node was faster
        for _, path in sorted(used)[: -self._keep]:
            with _locked(self._lock(path), wait=False) as held:
                if held:
                    path.unlink(missing_ok=True)


def default_cache_dir() -> Path:
    """A folder of this user's on this node's temporary disk."""
    return Path(tempfile.gettempdir()) / f"raylambda-activations-{os.getuid()}"


def _map(path: Path) -> Rows:
    tensors = load_file(path)
    return Rows(tensors["activations"], tensors["document"], tensors["start"], tensors["end"])


def _record_of(path: Path) -> FileRecord | None:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return FileRecord(os.fstat(file.fileno()).st_size, digest)
    except FileNotFoundError:
        return None


@contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock among the processes of this node; False if `wait` is off and it is taken.

    The kernel frees it when its holder dies.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
