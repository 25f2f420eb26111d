"""Activation sets for tests, made without a host model."""

import numpy as np
import torch

from data.storage import Store
from ray_jobs.activations.harvester import commit_shard
from ray_jobs.activations.manifest import (
    MANIFEST_NAME,
    SetManifest,
    SetSpec,
    ShardRecord,
    mean_and_scale,
)
from ray_jobs.activations.shards import ActivationSet, Rows


def numbered_rows(document_sizes: list[int]) -> Rows:
    """Row i holds i // 256, i % 256 (exact in bfloat16) and two constants; token t of a document
    stands for characters [2t, 2t + 1)."""
    n_rows = sum(document_sizes)
    number = torch.arange(n_rows)
    activations = torch.stack(
        [number // 256, number % 256, torch.ones(n_rows), torch.zeros(n_rows)], dim=1
    )
    document = torch.repeat_interleave(
        torch.arange(len(document_sizes)), torch.tensor(document_sizes)
    )
    token = torch.cat([torch.arange(size) for size in document_sizes])
    sink = torch.zeros(n_rows, dtype=torch.bool)
    return Rows(
        activations.bfloat16(), document.int(), (2 * token).int(), (2 * token + 1).int(), sink
    )


def row_numbers(activations: torch.Tensor) -> list[int]:
    """The row numbers that `numbered_rows` put into raw activations."""
    wide = activations.float().round().long()
    return (wide[:, 0] * 256 + wide[:, 1]).tolist()


def save_set(store: Store, rows: Rows, shard_rows: int, n_documents: int) -> ActivationSet:
    """Commit `rows` as a whole set."""
    records = [
        commit_shard(store, index, rows[start : start + shard_rows])
        for index, start in enumerate(range(0, len(rows), shard_rows))
    ]
    return finish_set(store, records, shard_rows, n_documents)


def finish_set(
    store: Store, records: list[ShardRecord], shard_rows: int, n_documents: int
) -> ActivationSet:
    """Write the manifest of committed shards."""
    n_rows = sum(record.rows for record in records)
    total = np.sum([record.sum for record in records], axis=0)
    squares = sum(record.sum_squares for record in records)
    n_sinks = sum(record.sinks for record in records)
    mean, scale = mean_and_scale(total, squares, n_rows - n_sinks)
    spec = SetSpec("none", "made for a test", "0" * 64, 1, "float32", "0" * 64, shard_rows)
    entries = [record.entry() for record in records]
    manifest = SetManifest(
        spec=spec,
        d_in=len(mean),
        n_documents=n_documents,
        n_rows=n_rows,
        n_sinks=n_sinks,
        n_first_sinks=sum(record.first_sinks for record in records),
        sink_radius=records[0].sink_radius,
        mean=mean.tolist(),
        scale=scale,
        shards=entries,
    )
    store.write_json(MANIFEST_NAME, manifest.to_json())
    return ActivationSet.open(store)
