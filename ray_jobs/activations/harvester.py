"""The shards of an activation set: planned from token counts, then computed one by one.

The plan says which documents and rows each shard holds before any activation is computed.
`make_shard` runs anywhere; `harvest` runs it in Ray actors.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from data.errors import DataError, NonFiniteError
from data.storage import Store
from ray_jobs.activations.host_model import HostModel
from ray_jobs.activations.manifest import ShardRecord, record_name, shard_name
from ray_jobs.activations.shards import Rows
from ray_jobs.activations.sinks import SAMPLE_ROWS, SinkRule, find_sink_rule
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


@dataclass(frozen=True)
class ShardTask:
    """A shard's plan and the texts of its documents: all that an actor needs for it.

    `sample` are texts of the whole corpus, by which attention sinks are told; none: the shard's.
    """

    plan: ShardPlan
    texts: list[str]
    sample: tuple[str, ...] = ()


def sink_rule_of(model: HostModel, task: ShardTask) -> SinkRule:
    """The rule for attention sinks, from the task's sample; the same for every shard of a set."""
    tokens = model.tokenize(list(task.sample) or task.texts)
    bounds = [(0, min(text.n_rows, SAMPLE_ROWS)) for text in tokens]
    return find_sink_rule([rows for rows in model.rows(tokens, bounds) if len(rows)])


def make_shard(
    model: HostModel, store: Store, task: ShardTask, rule: SinkRule | None = None
) -> ShardRecord:
    """Compute one shard and commit it: bytes first, then its record. Idempotent.

    `rule` is that of `sink_rule_of`, for a caller that has it already.

    The bytes depend on nothing but the task, the model and the kind of processor.
    Errors: NonFiniteError naming shard and document, before anything is written.
    """
    plan = task.plan
    tokens = model.tokenize(task.texts)
    bounds = _row_bounds(plan, tokens)
    activations = torch.cat([part.bfloat16() for part in model.rows(tokens, bounds)])
    document = np.repeat(
        np.arange(plan.first_document, plan.stop_document, dtype=np.int32),
        [stop - start for start, stop in bounds],
    )
    offsets = np.concatenate(
        [text.offsets[start:stop] for text, (start, stop) in zip(tokens, bounds, strict=True)]
    )
    start, end = torch.from_numpy(offsets).unbind(1)
    # Clones, since safetensors refuses the shared storage of two views.
    rule = rule or sink_rule_of(model, task)
    sink = rule.is_sink(activations)
    rows = Rows(activations, torch.from_numpy(document), start.clone(), end.clone(), sink)
    return commit_shard(store, plan.index, rows, skip=plan.skip, sink_radius=rule.radius)


def commit_shard(
    store: Store, index: int, rows: Rows, *, skip: int = 0, sink_radius: float = math.inf
) -> ShardRecord:
    """Write a shard's bytes, then its record.

    `skip` rows of its first document are in the shard before; `sink_radius` is told in the record.
    Errors: NonFiniteError before anything is written, StorageError.
    """
    _check_finite(rows, index)
    total, squares = _sums(rows.ordinary)
    written = store.write_bytes(shard_name(index), save(vars(rows)))
    record = ShardRecord(
        index=index,
        rows=len(rows),
        first_document=int(rows.document[0]),
        last_document=int(rows.document[-1]),
        size_bytes=written.size_bytes,
        sha256=written.sha256,
        sinks=int(rows.sink.sum()),
        first_sinks=int((rows.sink & _first_of_document(rows, skip)).sum()),
        sink_radius=sink_radius if math.isfinite(sink_radius) else None,
        sum=total,
        sum_squares=squares,
    )
    store.write_json(record_name(index), asdict(record))
    return record


def _row_bounds(plan: ShardPlan, tokens: Sequence[TokenizedText]) -> list[tuple[int, int]]:
    """Rows [start, stop) of each document that lie in the shard."""
    bounds, left, skip = [], plan.rows, plan.skip
    for text in tokens:
        stop = min(text.n_rows, skip + left)
        bounds.append((skip, stop))
        left -= stop - skip
        skip = 0
    if left:
        raise DataError(
            f"shard {plan.index}: its documents hold {plan.rows - left} tokens where the plan "
            f"counted {plan.rows}: the nodes' tokenizers or libraries differ"
        )
    return bounds


def _first_of_document(rows: Rows, skip: int) -> Tensor:
    """bool (n,): whether a row is its document's first."""
    first = torch.ones(len(rows), dtype=torch.bool)
    first[1:] = rows.document.diff() != 0
    first[0] = skip == 0
    return first


def _check_finite(rows: Rows, shard: int) -> None:
    finite = torch.isfinite(rows.activations).all(dim=1)
    if not finite.all():
        row = int(torch.argmin(finite.int()))
        raise NonFiniteError(
            f"document {int(rows.document[row])} gives a NaN or infinite activation (shard "
            f"{shard}, row {row}): leave the document out, or use dtype float32"
        )


def _sums(activations: Tensor) -> tuple[list[float], float]:
    """Per-dimension sum and total sum of squares in float64, a slice of rows at a time."""
    total = torch.zeros(activations.shape[1], dtype=torch.float64)
    squares = 0.0
    for part in activations.split(1024):
        wide = part.double()
        total += wide.sum(0)
        squares += float(wide.pow(2).sum())
    return total.tolist(), squares
