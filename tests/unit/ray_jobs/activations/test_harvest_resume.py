"""A harvest that ended in the middle of a shard goes on with the unfinished ones alone."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from data.storage import Store
from ray_jobs.activations.harvest import harvest
from ray_jobs.activations.harvest_pool import HarvestPool
from ray_jobs.activations.harvester import ShardTask, make_shard
from ray_jobs.activations.host_model import HostModel
from ray_jobs.activations.manifest import ShardRecord, record_name, shard_name
from tests.hosts import save_tiny_llama

TEXTS = ["born in a street, writes to a friend"] * 60


class Killed(Exception):
    """The machine goes."""


class InThisProcess:
    """Stands for the pool of actors; knows which shards it began."""

    def __init__(self, host: str) -> None:
        self.host = (host, 2, "float32")
        self.started_s = 0.0
        self.begun: list[int] = []
        self._model = HostModel(host, 2)

    def run(
        self, store: Store, shards: Sequence[int], task_of: Callable[[int], ShardTask]
    ) -> Iterator[ShardRecord]:
        for shard in shards:
            self.begun.append(shard)
            yield make_shard(self._model, store, task_of(shard))


def run(host: str, folder: Path) -> tuple[list[int], dict[str, bytes]]:
    """The shards begun, and every file that is there when the harvest has ended."""
    pool, store = InThisProcess(host), Store.open(str(folder))
    try:
        harvest(
            TEXTS,
            data_sha256="a" * 64,
            model=host,
            layer=2,
            store=store,
            shard_rows=64,
            pool=cast(HarvestPool, pool),
        )
    except Killed:
        pass
    return pool.begun, {name.split("/")[1]: store.read_bytes(name) for name in store.files()}


def test_a_shard_without_its_record_is_made_again_and_finished_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = str(save_tiny_llama(tmp_path / "host"))
    write_json = Store.write_json

    def killed_before_a_record(store: Store, name: str, value: Any) -> Any:
        if name == record_name(3):
            raise Killed
        return write_json(store, name, value)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_json", killed_before_a_record)
        begun, files = run(host, tmp_path / "run")
    assert begun == [0, 1, 2, 3]
    assert shard_name(3) in files and record_name(3) not in files
    every_shard, undisturbed = run(host, tmp_path / "undisturbed")
    resumed, files = run(host, tmp_path / "run")
    assert resumed == every_shard[3:] and len(every_shard) > 6
    assert files == undisturbed
