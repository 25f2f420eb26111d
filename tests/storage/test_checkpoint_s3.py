"""Checkpoints on a real S3 server that fails, dies and comes back."""

import threading
import time

import pytest
import torch

from data.errors import StorageError
from data.storage import Store
from ray_jobs.checkpoint import BackgroundSaver, CheckpointInfo, CheckpointStore, Readers
from tests.storage.ceph import CephServer, free_port
from tests.storage.faultproxy import Fault, FaultProxy, fault_on

pytestmark = pytest.mark.storage


def state_at(step: int, size: int = 3 << 20) -> dict:
    """12 MB of floats by default: two parts."""
    generator = torch.Generator().manual_seed(step)
    return {"weights": torch.randn(size, generator=generator), "step": step}


def save(store: CheckpointStore, *steps: int) -> list[CheckpointInfo]:
    return [store.save(step, state_at(step), attempt="a1", metadata={}) for step in steps]


def assert_newest_is(store: CheckpointStore, step: int) -> None:
    loaded = store.load_newest()
    assert loaded is not None
    info, state = loaded
    assert (info.step, state["step"]) == (step, step)
    torch.testing.assert_close(state["weights"], state_at(step)["weights"], rtol=0, atol=0)


def test_saved_found_and_pruned(s3_uri: str) -> None:
    store = CheckpointStore(Store.open(s3_uri), keep=2)
    assert store.load_newest() is None
    save(store, 1, 2, 3)
    assert_newest_is(store, 3)
    store.prune()
    assert [info.step for info in store.committed()] == [3, 2]
    assert Store.open(s3_uri).directories() == ["step-00000002-w1-a1", "step-00000003-w1-a1"]


def test_refused_parts_are_an_error_result_and_training_goes_on(
    proxied_uri: str, proxy: FaultProxy
) -> None:
    """What plain Ray Train reports as a stored checkpoint of 0 bytes."""
    store = CheckpointStore(Store.open(proxied_uri, retry_s=5))
    saver = BackgroundSaver(store, attempt="a1")
    saver.submit(1, state_at(1), {})
    saver.wait()
    with fault_on(proxy, Fault("answer", ("part",), 403, "AccessDenied")):
        saver.submit(2, state_at(2), {})
        with pytest.raises(StorageError, match="access denied"):
            saver.wait()
    assert [info.step for info in store.committed()] == [1]
    assert Store.open(proxied_uri).directories() == ["step-00000001-w1-a1"]
    saver.submit(3, state_at(3), {})
    saver.wait()
    saver.close()
    assert [(result.step, result.error) for result in saver.results()] == [(1, None), (3, None)]
    assert_newest_is(store, 3)


@pytest.mark.parametrize("match", ["rank-00000.json", "COMMITTED"])
def test_without_its_last_files_a_checkpoint_does_not_count(
    proxied_uri: str, proxy: FaultProxy, match: str
) -> None:
    store = CheckpointStore(Store.open(proxied_uri, retry_s=1))
    save(store, 1)
    with fault_on(proxy, Fault("answer", ("put",), 503, match=match)):
        with pytest.raises(StorageError, match="SLOW_DOWN"):
            save(store, 2)
    assert_newest_is(store, 1)
    save(store, 2)  # the same attempt may complete it
    assert_newest_is(store, 2)


@pytest.mark.parametrize("harm", ["truncated", "altered", "file gone", "directory gone", "marker"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    s3_uri: str, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    files, store = Store.open(s3_uri), CheckpointStore(Store.open(s3_uri))
    _, newest = save(store, 1, 2)
    name = f"{newest.name}/rank-00000.pt"
    data = bytearray(files.read_bytes(name))
    if harm == "truncated":
        files.write_bytes(name, bytes(data[:-1000]))
    elif harm == "altered":
        data[len(data) // 2] ^= 1
        files.write_bytes(name, bytes(data))
    elif harm == "file gone":
        files.delete(name)
    elif harm == "directory gone":
        files.delete_tree(newest.name)
    else:
        files.write_bytes(f"{newest.name}/COMMITTED.json", b"{}")
    assert_newest_is(store, 1)
    assert (newest.name in caplog.text) == (harm != "directory gone")
    assert_newest_is(store, 1)


def test_an_unreachable_server_is_no_reason_to_go_back(proxied_uri: str, proxy: FaultProxy) -> None:
    store = CheckpointStore(Store.open(proxied_uri, retry_s=1))
    save(store, 1, 2)
    votes: list[bool] = []

    def vote(mine: bool) -> bool:
        votes.append(mine)
        return mine

    with fault_on(proxy, Fault("drop", ("get", "head"), match="rank-00000.pt")):
        with pytest.raises(StorageError, match="cannot be reached"):
            store.load_newest(Readers(all_agree=vote))
    assert votes == [False]
    assert_newest_is(store, 2)
    dead = proxied_uri.replace(proxy.endpoint, f"127.0.0.1:{free_port()}")
    with pytest.raises(StorageError, match="cannot be reached"):
        CheckpointStore(Store.open(dead, retry_s=1)).load_newest()


def test_an_upload_survives_the_death_of_the_server(
    s3: CephServer, proxied_uri: str, proxy: FaultProxy
) -> None:
    """SIGKILL in the middle, back after 20 s; training stands still only to copy the state."""
    store = CheckpointStore(Store.open(proxied_uri, retry_s=100))
    saver = BackgroundSaver(store, attempt="a1")
    state = state_at(1, 10 << 20)  # 40 MB
    proxy.bytes_per_s = 20e6
    start = time.monotonic()
    saver.submit(1, state, {"epoch": 1})
    assert time.monotonic() - start < 1.0
    wait_until(lambda: proxy.seen["part"] >= 2)
    s3.kill_gateway()
    try:
        assert saver.busy
        state["weights"].zero_()  # training goes on with its own tensors
        time.sleep(20)
        assert saver.busy and saver.results() == []
    finally:
        s3.start_gateway()
    proxy.bytes_per_s = None
    saver.wait()
    saver.close()
    (result,) = saver.results()
    assert result.info is not None and result.info.committed
    assert result.duration_s > 20
    loaded = store.load_newest()
    assert loaded is not None
    torch.testing.assert_close(loaded[1]["weights"], state_at(1, 10 << 20)["weights"])


def test_a_state_in_parts_counts_when_its_last_rank_is_there(s3_uri: str) -> None:
    store, world_size = CheckpointStore(Store.open(s3_uri)), 4

    def save_rank(rank: int) -> CheckpointInfo:
        state = {"parts": {rank: torch.full((5,), rank)}}
        return store.save(
            7, state, rank=rank, world_size=world_size, attempt="a1", metadata={"from": rank}
        )

    assert not save_rank(3).committed
    assert store.load_newest() is None
    infos: list[CheckpointInfo] = []
    threads = [
        threading.Thread(target=lambda rank=rank: infos.append(save_rank(rank)))
        for rank in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any(info.committed for info in infos)
    loaded = store.load_newest()
    assert loaded is not None and loaded[0].metadata == {"from": 0}
    found = loaded[1]["parts"]
    assert [found[rank].tolist() for rank in range(world_size)] == [[r] * 5 for r in range(4)]


def wait_until(ready, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
