"""Activations in a bucket: the same batches as from a disk, each shard fetched once."""

from pathlib import Path

import pytest
import torch

from data.errors import CorruptFileError
from data.storage import Store
from ray_jobs.activations.manifest import shard_name
from ray_jobs.activations.shards import ActivationSet
from ray_jobs.activations.stream import ActivationStream
from tests.activation_sets import numbered_rows, save_set
from tests.storage.faultproxy import Fault, FaultProxy

pytestmark = pytest.mark.storage

SHARD_ROWS = 64
N_DOCUMENTS = 40


def saved(uri: str) -> ActivationSet:
    return save_set(Store.open(uri), numbered_rows([10] * N_DOCUMENTS), SHARD_ROWS, N_DOCUMENTS)


def batches(activations: ActivationSet, cache_dir: Path | None = None) -> list[torch.Tensor]:
    """Two epochs."""
    stream = ActivationStream(
        activations, batch_size=50, window_shards=4, seed=1, cache_dir=cache_dir
    )
    try:
        return [stream.batch(step).clone() for step in range(2 * stream.steps_per_epoch)]
    finally:
        stream.close()


def test_a_bucket_gives_the_batches_of_a_disk(s3_uri: str, tmp_path: Path) -> None:
    saved(s3_uri)
    local = batches(saved(str(tmp_path / "set")))
    remote = batches(ActivationSet.open(Store.open(s3_uri)), tmp_path / "cache")
    assert all(torch.equal(a, b) for a, b in zip(local, remote, strict=True))


def test_a_second_pass_reads_the_nodes_copies(
    proxied_uri: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    activations = saved(proxied_uri)
    first = batches(activations, tmp_path)
    proxy.fault = Fault("answer", status=503, code="SlowDown")  # for every request
    second = batches(activations, tmp_path)
    assert proxy.fault.hits == 0
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_changed_object_is_refused_by_name(s3_uri: str, tmp_path: Path) -> None:
    activations = saved(s3_uri)
    name = shard_name(2)
    content = bytearray(activations.store.read_bytes(name))
    content[-1] ^= 1
    activations.store.write_bytes(name, bytes(content))
    with pytest.raises(CorruptFileError, match=name):
        batches(activations, tmp_path)
