"""Which documents and rows each shard holds: decided before any activation is computed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data.errors import DataError
from ray_jobs.activations.tokens import TokenizedText

_CHUNK_DOCUMENTS = 512


@dataclass(frozen=True)
class ShardPlan:
    """Rows [start, stop) of the whole set, made of documents [first_document, stop_document).

    skip    rows of the first document that belong to the shard before
    """

    index: int
    start: int
    stop: int
    first_document: int
    stop_document: int
    skip: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class RowPlan:
    """ends[i] is the number of rows in documents 0..i, int64; 8 bytes a document are all
    that a plan keeps, however long the documents are."""

    ends: np.ndarray
    shard_rows: int

    @property
    def n_rows(self) -> int:
        return int(self.ends[-1])

    @property
    def n_shards(self) -> int:
        return -(-self.n_rows // self.shard_rows)

    def shard(self, index: int) -> ShardPlan:
        """The plan of one shard, 0 <= index < n_shards."""
        start = index * self.shard_rows
        stop = min(start + self.shard_rows, self.n_rows)
        first = int(np.searchsorted(self.ends, start, side="right"))
        last = int(np.searchsorted(self.ends, stop - 1, side="right"))
        before = int(self.ends[first - 1]) if first else 0
        return ShardPlan(index, start, stop, first, last + 1, start - before)


def plan_rows(
    documents: Sequence[str],
    tokenize: Callable[[list[str]], list[TokenizedText]],
    shard_rows: int,
) -> RowPlan:
    """Count every document's rows, a chunk of documents at a time.

    Errors: DataError for documents that hold no token at all.
    """
    counts = np.zeros(len(documents), dtype=np.int64)
    for begin in range(0, len(documents), _CHUNK_DOCUMENTS):
        texts = list(documents[begin : begin + _CHUNK_DOCUMENTS])
        counts[begin : begin + len(texts)] = [text.n_rows for text in tokenize(texts)]
    if counts.sum() == 0:
        raise DataError(f"no activations to harvest: {len(documents)} documents without a token")
    return RowPlan(ends=np.cumsum(counts), shard_rows=shard_rows)
