"""A harvested set of activations: rows in order, by document, centred and scaled."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from data.errors import DataError
from data.storage import Store
from ray_jobs.activations.manifest import MANIFEST_NAME, SetManifest
from ray_jobs.activations.shard_files import Rows, ShardFiles


@dataclass(frozen=True)
class ActivationSet:
    """The activations in one folder of a store. Small to pickle: no activation is held.

    store      the set's own folder
    cache_dir  where a node keeps shards of a bucket for a while (None: its temporary disk)

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
    def n_documents(self) -> int:
        """Documents harvested, those without a token included."""
        return self.manifest.n_documents

    @property
    def shard_rows(self) -> int:
        return self.manifest.spec.shard_rows

    @cached_property
    def mean(self) -> Tensor:
        """(d_in,) float32, over all rows."""
        return torch.tensor(self.manifest.mean, dtype=torch.float32)

    @property
    def scale(self) -> float:
        """Makes E ||(x - mean) * scale||^2 equal d_in, over all rows."""
        return self.manifest.scale

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
