"""Saving while training goes on: one copy, one save at a time, errors as results."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from data.errors import StorageError
from data.storage import Store
from ray_jobs.checkpoint import BackgroundSaver, CheckpointStore
from ray_jobs.checkpoint.state import HostBuffers


def state_at(step: int) -> dict[str, Any]:
    return {"weights": torch.full((4, 3), float(step)), "step": step}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(Store.open(str(tmp_path / "checkpoints")), keep=2)


def newest_step(store: CheckpointStore) -> int | None:
    loaded = store.load_newest()
    return None if loaded is None else loaded[1]["step"]


def test_host_buffers_are_reused_and_detached() -> None:
    buffers = HostBuffers()
    weights = torch.nn.Parameter(torch.ones(3))
    first = buffers.copy({"weights": weights, "gone": torch.ones(2)})
    address = first["weights"].data_ptr()
    with torch.no_grad():
        weights += 1
    assert first["weights"].tolist() == [1, 1, 1] and not first["weights"].requires_grad
    second = buffers.copy({"weights": weights})
    assert second["weights"].data_ptr() == address and second["weights"].tolist() == [2, 2, 2]
    third = buffers.copy({"weights": weights.detach().to(torch.float64)})
    assert third["weights"].dtype == torch.float64


class Gate:
    """Holds uploads back until opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.event = threading.Event()
        write = Store.write_stream

        def held(store: Store, name: str, produce: Any) -> Any:
            assert self.event.wait(30)
            return write(store, name, produce)

        monkeypatch.setattr(Store, "write_stream", held)


def test_training_may_change_its_tensors_while_they_are_saved(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, saver, state = Gate(monkeypatch), BackgroundSaver(store, attempt="a1"), state_at(1)
    saver.submit(1, state, {"epoch": 1})
    state["weights"].zero_()
    assert saver.busy and saver.results() == []
    gate.event.set()
    saver.wait()
    assert not saver.busy
    (result,) = saver.results()
    assert result.error is None and result.info == store.committed()[0]
    assert saver.results() == []
    assert newest_step(store) == 1
    for step in (2, 3, 4):
        saver.submit(step, state_at(step), {})
    saver.close()
    assert [result.step for result in saver.results()] == [2, 3, 4]
    assert [info.step for info in store.committed()] == [4, 3]


def test_one_save_at_a_time(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, saver = Gate(monkeypatch), BackgroundSaver(store, attempt="a1")
    saver.submit(1, state_at(1), {})
    second = threading.Thread(target=saver.submit, args=(2, state_at(2), {}))
    second.start()
    second.join(0.2)
    assert second.is_alive(), "the host copy in flight must not be written over"
    gate.event.set()
    second.join(30)
    saver.close()
    assert [result.error for result in saver.results()] == [None, None]
    assert newest_step(store) == 2


def test_a_failed_save_is_a_result(tmp_path: Path, store: CheckpointStore) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    saver = BackgroundSaver(CheckpointStore(Store.open(str(blocked))), attempt="a1")
    saver.submit(1, state_at(1), {})
    saver.submit(2, state_at(2), {})
    with pytest.raises(StorageError, match="a file stands where"):
        saver.wait()
    (second,) = saver.results()
    assert second.step == 2 and isinstance(second.error, StorageError) and second.info is None
    saver.wait()
    with pytest.raises(TypeError, match=r"state\['bad'\]"):
        saver.submit(3, {"bad": object()}, {})
    saver.close()
