"""A harvested set of activations: its rows in order or by document, read from verified shards.

The shards of a local set are read in place; those of a bucket are fetched once per node into a
bounded cache.
"""

import fcntl
import hashlib
import os
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from data.errors import CorruptFileError, DataError
from data.storage import FileRecord, Store
from data.storage.location import parse_location
from ray_jobs.activations.manifest import MANIFEST_NAME, SetManifest, shard_name
from ray_jobs.activations.sinks import SinkRule, sinks_in_words


@dataclass(frozen=True)
class Rows:
    """Activations and where they come from.

    activations (n, d_in) bfloat16; document (n,) int32, its number in the data set;
    start, end (n,) int32: characters [start, end) of that document; sink (n,) bool: whether it
    is an attention sink.
    """

    activations: Tensor
    document: Tensor
    start: Tensor
    end: Tensor
    sink: Tensor

    def __len__(self) -> int:
        return len(self.activations)

    def __getitem__(self, part: slice) -> "Rows":
        """Views of a range of rows."""
        return Rows(*(tensor[part] for tensor in vars(self).values()))

    @property
    def ordinary(self) -> Tensor:
        """Activations of the rows that are no sinks; a view where all are."""
        return self.activations[~self.sink] if self.sink.any() else self.activations

    @staticmethod
    def concat(parts: "list[Rows]") -> "Rows":
        """A copy of all rows of `parts`, which are not none."""
        return Rows(*map(torch.cat, zip(*(vars(part).values() for part in parts), strict=True)))


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
            # Two locations may hold sets of one name, from different processors.
            store_id = hashlib.sha256(store.uri.encode()).hexdigest()[:8]
            self._folder = (cache_dir or default_cache_dir()) / f"{manifest.spec.folder}-{store_id}"
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
        self._folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder.mkdir(exist_ok=True, mode=0o700)
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
    """A folder of this user's: text can be read back from activations, and in a shared temporary
    folder anybody could have laid a link under the name."""
    return Path.home() / ".cache" / "raylambda" / "activations"


def _map(path: Path) -> Rows:
    return Rows(**load_file(path))


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


@dataclass(frozen=True)
class ActivationSet:
    """The activations in one folder of a store. Small to pickle: no activation is held.

    store      the set's own folder
    cache_dir  where a node keeps shards of a bucket for a while (None: `default_cache_dir`)

    Row i of the set is row i % shard_rows of shard i // shard_rows; rows are in order of
    documents and, within one, of tokens.
    """

    store: Store
    manifest: SetManifest
    cache_dir: Path | None = None

    @classmethod
    def open(cls, store: Store, cache_dir: Path | None = None) -> "ActivationSet":
        """Open the set in the folder `store`. Errors: DataError when there is no whole set."""
        if not store.exists(MANIFEST_NAME):
            raise DataError(f"{store.uri} holds no whole activation set: run the harvest")
        where = f"{store.uri}/{MANIFEST_NAME}"
        return cls(store, SetManifest.from_json(store.read_json(MANIFEST_NAME), where), cache_dir)

    @property
    def d_in(self) -> int:
        return self.manifest.d_in

    @property
    def n_rows(self) -> int:
        return self.manifest.n_rows

    @property
    def n_ordinary(self) -> int:
        """Rows that are no attention sinks: those that a training sees."""
        return self.manifest.n_rows - self.manifest.n_sinks

    @property
    def n_documents(self) -> int:
        """Documents harvested, those without a token included."""
        return self.manifest.n_documents

    @property
    def shard_rows(self) -> int:
        return self.manifest.spec.shard_rows

    @cached_property
    def mean(self) -> Tensor:
        """(d_in,) float32, over all ordinary rows."""
        return torch.tensor(self.manifest.mean, dtype=torch.float32)

    @property
    def scale(self) -> float:
        """Makes E ||(x - mean) * scale||^2 equal d_in, over all ordinary rows."""
        return self.manifest.scale

    @property
    def sinks_in_words(self) -> str:
        """How many rows a training leaves out, and why."""
        manifest = self.manifest
        return sinks_in_words(manifest.n_sinks, manifest.n_first_sinks, manifest.n_rows)

    @property
    def sink_counts(self) -> dict[str, Any]:
        """The sinks as `training_history.json` and manifests have them."""
        manifest = self.manifest
        return {
            "tokens": manifest.n_sinks,
            "share": manifest.n_sinks / manifest.n_rows,
            "first": manifest.n_first_sinks,
            "radius": manifest.sink_radius,
        }

    @property
    def sink_rule(self) -> SinkRule | None:
        """What tells this host's attention sinks by their activations; None where it has none."""
        if self.manifest.sink_radius is None or not self.manifest.n_sinks:
            return None
        return SinkRule(self.mean, self.manifest.sink_radius)

    def normalise(self, activations: Tensor) -> Tensor:
        """(x - mean) * scale in float32, on the device of `activations` (..., d_in)."""
        return (activations.float() - self.mean.to(activations.device)) * self.scale

    def files(self, keep: int, cache_dir: Path | None = None) -> ShardFiles:
        """Reader of single shards that keeps `keep` of a bucket's on this node's disk."""
        return ShardFiles(
            self.store, self.manifest, cache_dir=cache_dir or self.cache_dir, keep=keep
        )

    def rows(self, start: int, stop: int) -> Rows:
        """Rows [start, stop), 0 <= start < stop <= n_rows, raw, verified as they are read."""
        if not 0 <= start < stop <= self.n_rows:
            raise IndexError(f"rows {start}..{stop} of {self.n_rows}")
        files = self.files(keep=2)
        parts = []
        for index in range(start // self.shard_rows, (stop - 1) // self.shard_rows + 1):
            first = index * self.shard_rows
            parts.append(files.load(index)[max(0, start - first) : stop - first])
        return Rows.concat(parts)

    def documents(self, first: int = 0, stop: int | None = None) -> Iterator[tuple[int, Rows]]:
        """(document, its rows) for documents first <= document < stop that have rows, in order.

        One shard and one document are held at a time.
        """
        stop = self.n_documents if stop is None else stop
        for part in self._whole_documents(first, stop):
            document = int(part.document[0])
            if first <= document < stop:
                yield document, part

    def _whole_documents(self, first: int, stop: int) -> Iterator[Rows]:
        """Every document of the shards that hold documents [first, stop), joined over shards."""
        shards = self.manifest.shards
        files = self.files(keep=2)
        begin = bisect_left(shards, first, key=lambda shard: shard.last_document)
        open_part: Rows | None = None
        for index in range(begin, len(shards)):
            if shards[index].first_document >= stop:
                break
            parts = _by_document(files.load(index))
            if open_part is not None and open_part.document[0] == parts[0].document[0]:
                parts[0] = Rows.concat([open_part, parts[0]])
            elif open_part is not None:
                parts.insert(0, open_part)
            # The next shard may go on with it.
            open_part = parts.pop()
            yield from parts
        if open_part is not None:
            yield open_part


def _by_document(rows: Rows) -> list[Rows]:
    edges = (torch.nonzero(rows.document.diff()).flatten() + 1).tolist()
    return [rows[a:b] for a, b in zip([0, *edges], [*edges, len(rows)], strict=True)]
