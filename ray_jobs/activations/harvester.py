"""One shard, from texts to committed bytes. Runs anywhere; `harvest` runs it in Ray actors."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from data.errors import DataError, NonFiniteError
from data.storage import Store
from ray_jobs.activations.host_model import HostModel
from ray_jobs.activations.manifest import ShardRecord, record_name, shard_name
from ray_jobs.activations.plan import ShardPlan
from ray_jobs.activations.shard_files import Rows
from ray_jobs.activations.tokens import TokenizedText


@dataclass(frozen=True)
class ShardTask:
    """A shard's plan and the texts of its documents: all that an actor needs for it."""

    plan: ShardPlan
    texts: list[str]


def make_shard(model: HostModel, store: Store, task: ShardTask) -> ShardRecord:
    """Compute one shard and commit it: bytes first, then its record. Idempotent.

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
    rows = Rows(activations, torch.from_numpy(document), start.clone(), end.clone())
    return commit_shard(store, plan.index, rows)


def commit_shard(store: Store, index: int, rows: Rows) -> ShardRecord:
    """Write a shard's bytes, then its record. Errors: NonFiniteError before anything is written,
    StorageError."""
    _check_finite(rows, index)
    total, squares = _sums(rows.activations)
    written = store.write_bytes(shard_name(index), save(vars(rows)))
    record = ShardRecord(
        index=index,
        rows=len(rows),
        first_document=int(rows.document[0]),
        last_document=int(rows.document[-1]),
        size_bytes=written.size_bytes,
        sha256=written.sha256,
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
