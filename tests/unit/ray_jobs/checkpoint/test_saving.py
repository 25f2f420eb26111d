"""When a training saves: by its cadence, at once before a machine goes, and before it ends."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.errors import NonFiniteError, StorageError
from data.storage import Store
from ray_jobs.checkpoint import CheckpointStore
from ray_jobs.checkpoint.saving import Saving


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(Store.open(str(tmp_path)), keep=5)


def saving(store: CheckpointStore, rank: int = 0, **others: Any) -> Saving:
    clock: Callable[[], float] = lambda: 0.0  # noqa: E731
    return Saving(store, rank, lambda: {"a": 1}, {}, 10, 60, **({"clock": clock} | others))


def steps(store: CheckpointStore) -> list[int]:
    return [info.step for info in store.committed()]


def test_saved_now_is_committed_when_the_call_returns(store: CheckpointStore):
    made = saving(store)
    made.save_if_due(3, epoch_ends=False)
    assert steps(store) == []
    made.save_now(4)
    assert steps(store) == [4]


def test_a_save_under_way_is_settled(store: CheckpointStore):
    made = saving(store)
    made.save_if_due(10, epoch_ends=False)
    made.settle()
    assert steps(store) == [10]


def test_ranks_that_do_not_write_save_nothing(store: CheckpointStore):
    made = saving(store, rank=1)
    made.save_now(4)
    made.settle()
    made.finish(5)
    assert steps(store) == []


def test_a_state_that_is_shared_out_is_committed_by_the_last_rank(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ray_jobs.checkpoint.saving.world_size", lambda: 2)
    monkeypatch.setattr("ray_jobs.checkpoint.saving.from_rank_zero", lambda _: "same")
    ranks = [saving(store, rank, shared_out=True) for rank in range(2)]
    ranks[0].save_now(4)
    assert steps(store) == []
    ranks[1].save_now(4)
    assert [info.name for info in store.committed()] == ["step-00000004-w2-same"]


def test_what_the_check_refuses_is_never_committed_and_ends_the_training(store: CheckpointStore):
    def refuse_the_second(state: Any) -> None:
        if state["n"] == 2:
            raise NonFiniteError("the agent is not finite after step 6")

    states = iter([{"n": 1}, {"n": 2}, {"n": 2}])
    made = Saving(
        store, 0, lambda: next(states), {}, 2, 60, clock=lambda: 0.0, check=refuse_the_second
    )
    made.save_if_due(4, epoch_ends=False)
    made.settle()
    made.save_if_due(6, epoch_ends=False)
    with pytest.raises(NonFiniteError, match="after step 6"):
        for _ in range(1000):  # training goes on until it is known
            made.save_if_due(7, epoch_ends=False)
            time.sleep(0.01)
    with pytest.raises(NonFiniteError, match="after step 6"):
        made.finish(8)
    assert steps(store) == [4]


def test_a_hurried_save_that_fails_leaves_the_one_before(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
):
    made = saving(store)
    made.save_now(4)

    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_stream", full)
        made.save_now(6)
        assert steps(store) == [4]
    made.save_now(8)
    assert steps(store) == [8, 4]
