"""Checkpoints on a local disk: commit, choice, rejection, pruning, saving in the background."""

import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data.errors import ConfigError, StorageError
from data.storage import Store, transfer
from data.storage import store as storage
from ray_jobs.checkpoint import CheckpointInfo, CheckpointStore, Readers


def state_at(step: int) -> dict[str, Any]:
    return {"weights": torch.full((4, 3), float(step)), "step": step}


@pytest.fixture
def files(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "checkpoints"))


@pytest.fixture
def store(files: Store) -> CheckpointStore:
    ticks = iter(range(1, 1000))
    return CheckpointStore(files, keep=2, clock=lambda: float(next(ticks)))


def save(store: CheckpointStore, *steps: int, attempt: str = "a1") -> list[CheckpointInfo]:
    return [store.save(step, state_at(step), attempt=attempt, metadata={}) for step in steps]


def newest_step(store: CheckpointStore) -> int | None:
    loaded = store.load_newest()
    if loaded is None:
        return None
    info, state = loaded
    assert state["step"] == info.step and state["weights"].unique().tolist() == [info.step]
    return info.step


def test_a_state_comes_back_as_it_was(store: CheckpointStore) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "half": torch.arange(4, dtype=torch.bfloat16),
        "view": torch.arange(1000.0)[10:13],
        "random": torch.get_rng_state(),
        "cursor": [1, (2, None), {"text": "x", 5: b"y", "on": True, "rate": 0.5}],
    }
    info = store.save(3, state, attempt="a1", metadata={"epoch": 1, "shape": (2, 3)})
    loaded = store.load_newest()
    assert loaded is not None
    assert loaded[0] == info == store.committed()[0]
    assert info.metadata == {"epoch": 1, "shape": [2, 3]}
    for name in ("half", "view", "random"):
        assert (
            torch.equal(loaded[1][name], state[name]) and loaded[1][name].dtype == state[name].dtype
        )
    assert loaded[1]["cursor"] == state["cursor"]
    other = torch.nn.Linear(3, 2)
    other.load_state_dict(loaded[1]["model"])
    assert torch.equal(other.weight, model.weight) and torch.equal(other.bias, model.bias)
    saved, read = state["optimizer"], loaded[1]["optimizer"]
    assert read["param_groups"] == saved["param_groups"]
    assert [list(entry) for entry in read["state"].values()] == [
        ["step", "exp_avg", "exp_avg_sq"]
    ] * 2
    for index, entry in saved["state"].items():
        assert all(torch.equal(read["state"][index][key], entry[key]) for key in entry)


def test_a_view_is_saved_without_its_whole_storage(store: CheckpointStore, files: Store) -> None:
    info = store.save(1, {"view": torch.zeros(1 << 20)[:3]}, attempt="a1", metadata={})
    size_bytes = files.size(f"{info.name}/rank-00000.pt")
    assert size_bytes is not None and size_bytes < 10_000


@pytest.mark.parametrize(
    "value", [np.float64(1.0), {1, 2}, torch.zeros(2).to_sparse(), object(), [np.zeros(2)]]
)
def test_what_could_not_be_loaded_again_is_refused(
    store: CheckpointStore, files: Store, value: object
) -> None:
    with pytest.raises(TypeError, match=r"state\['a'\]\['b'\]"):
        store.save(1, {"a": {"b": value}}, attempt="a1", metadata={})
    assert files.files() == []


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("step", {"step": -1}),
        ("rank", {"rank": 1}),
        ("world_size", {"world_size": 0}),
        ("attempt", {"attempt": "A/1"}),
    ],
)
def test_errors_name_the_field(store: CheckpointStore, field: str, changes: dict) -> None:
    arguments = {"step": 1, "state": {}, "attempt": "a1", "metadata": {}, **changes}
    with pytest.raises(ConfigError, match=f"^{field}: "):
        store.save(**arguments)


def test_the_newest_is_of_the_highest_step_then_the_latest_commit(store: CheckpointStore) -> None:
    save(store, 10, 5)
    save(store, 10, attempt="b2")
    names = [info.name for info in store.committed()]
    assert names == ["step-00000010-w1-b2", "step-00000010-w1-a1", "step-00000005-w1-a1"]


def test_only_a_complete_checkpoint_counts(store: CheckpointStore, files: Store) -> None:
    save(store, 1)
    first = store.save(2, state_at(2), rank=0, world_size=2, attempt="a1", metadata={"by": 0})
    assert not first.committed and newest_step(store) == 1
    stale = store.save(2, state_at(2), rank=1, world_size=2, attempt="b2", metadata={})
    assert not stale.committed and newest_step(store) == 1
    last = store.save(2, state_at(2), rank=1, world_size=2, attempt="a1", metadata={"by": 1})
    assert last.committed and last.metadata == {"by": 0}
    assert store.committed()[0] == last
    marker = files.read_bytes(f"{last.name}/COMMITTED.json")
    again = store.save(2, state_at(9), rank=0, world_size=2, attempt="a1", metadata={"by": 9})
    assert again == last and files.read_bytes(f"{last.name}/COMMITTED.json") == marker


def test_what_several_saved_each_in_pieces_is_one_state_again(
    files: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(files, piece_bytes=100)
    whole = {"moments": {str(i): torch.full((n,), float(i)) for i, n in enumerate((5, 40, 9, 9))}}
    for rank in range(2):
        part = {name: value for name, value in whole["moments"].items() if int(name) % 2 == rank}
        state = {"moments": part, "step": 4 + rank, "done": [rank]}
        info = store.save(4, state, rank=rank, world_size=2, attempt="a", metadata={})
    sizes = [name for name in files.files(info.name) if name.endswith(".pt")]
    assert [name.rpartition("/")[2] for name in sizes] == [
        "rank-00000.pt",
        "rank-00001-1.pt",
        "rank-00001.pt",
    ]  # 5 and 9 numbers together; 40 alone, larger than a piece, and 9 after them
    loaded = store.load_newest()
    assert loaded is not None and loaded[1]["step"] == 4 and loaded[1]["done"] == [0]
    assert loaded[1]["moments"].keys() == whole["moments"].keys()
    for name, value in whole["moments"].items():
        assert torch.equal(loaded[1]["moments"][name], value)


def test_readers_of_one_machine_fetch_once_and_leave_nothing(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    save(store, 4)
    fetched: list[str] = []
    fetch = Store.fetch
    monkeypatch.setattr(
        Store, "fetch", lambda self, name, *more: fetched.append(name) or fetch(self, name, *more)
    )
    given: list[str | None] = []
    others: list[Any] = []

    def to_the_others(folder: str | None) -> str | None:
        follower = Readers(leads=False, from_leader=lambda mine: folder)
        given.append(folder)
        others.extend(store.load_newest(follower) for _ in range(2))
        return folder

    mine = store.load_newest(Readers(from_leader=to_the_others))
    assert given[0] is not None and not Path(given[0]).exists() and fetched == ["rank-00000.pt"]
    for loaded in (mine, *others):  # the maps outlive their files
        assert loaded is not None and loaded[1]["weights"].unique().tolist() == [4.0]


def test_what_one_rank_cannot_verify_no_rank_takes(store: CheckpointStore) -> None:
    save(store, 1, 2, 3)
    answers = iter([False, True])
    loaded = store.load_newest(Readers(all_agree=lambda mine: next(answers) and mine))
    assert loaded is not None and loaded[0].step == 2
    assert newest_step(store) == 3  # this rank saw no damage, so it marks none


def test_all_ranks_walk_the_list_of_rank_zero(store: CheckpointStore) -> None:
    first, second = save(store, 1, 2)
    loaded = store.load_newest(Readers(from_rank_zero=lambda _: [first.name]))
    assert loaded is not None and loaded[0] == first
    votes: list[bool] = []
    unknown = "step-00000003-w1-a1"
    readers = Readers(
        all_agree=lambda mine: votes.append(mine) or mine,
        from_rank_zero=lambda mine: [unknown, *mine],
    )
    loaded = store.load_newest(readers)
    assert loaded is not None and loaded[0] == second
    assert votes == [False, True]


def test_a_damaged_checkpoint_never_counts_again(
    store: CheckpointStore, files: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Else a restart from the one before would prune its own new ones for the damaged."""
    _, second, third = save(store, 1, 2, 3)
    files.write_bytes(f"{third.name}/rank-00000.pt", b"short")
    files.delete(f"{second.name}/rank-00000.json")
    assert newest_step(store) == 1
    assert f"{third.name} is skipped" in caplog.text and "has 5 bytes" in caplog.text
    assert f"{second.name} is skipped" in caplog.text and "is missing" in caplog.text
    assert [info.step for info in store.committed()] == [1]
    save(store, 2, attempt="b2")
    store.prune()
    assert newest_step(store) == 2
    save(store, 3, 4, attempt="b2")
    store.prune()
    assert files.directories() == [
        "step-00000003-w1-a1",
        "step-00000003-w1-b2",
        "step-00000004-w1-b2",
    ]


def test_a_marker_of_another_directory_does_not_count(store: CheckpointStore, files: Store) -> None:
    save(store, 1)
    info = store.save(2, state_at(2), attempt="a1", metadata={})
    wrong = "step-00000003-w2-a1"
    files.write_bytes(f"{wrong}/COMMITTED.json", files.read_bytes(f"{info.name}/COMMITTED.json"))
    old = {"format": 1, "manifests": [{}], "metadata": {}, "committed_at": 1.0}
    for document in (b"{}", json.dumps(old).encode()):
        files.write_bytes(f"{info.name}/COMMITTED.json", document)
        assert [entry.step for entry in store.committed()] == [1]


def test_pruning_keeps_the_newest_and_what_is_not_ours(
    store: CheckpointStore, files: Store
) -> None:
    save(store, 1, 2, 3, 4)
    store.save(2, state_at(2), rank=0, world_size=2, attempt="b2", metadata={})  # left behind
    store.save(9, state_at(9), rank=0, world_size=2, attempt="b2", metadata={})  # under way
    files.write_bytes("notes/mine", b"")
    for _ in range(2):
        store.prune()
        assert files.directories() == [
            "notes",
            "step-00000003-w1-a1",
            "step-00000004-w1-a1",
            "step-00000009-w2-b2",
        ]
    assert newest_step(store) == 4


@pytest.mark.parametrize("failing", ["write", "flush"])
def test_a_disk_that_fills_up_while_a_state_is_written(
    store: CheckpointStore, files: Store, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """The serialiser turns the disk's error into its own and still writes its file's end."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    save(store, 1)
    monkeypatch.setattr(transfer, "FLUSH_EVERY_BYTES", 1 << 20)
    full = SimpleNamespace(write=lambda _: None, flush=lambda: None)
    setattr(full, failing, fail)
    make = transfer.HashingWriter
    monkeypatch.setattr(storage, "HashingWriter", lambda _, progress: make(full, progress))
    with pytest.raises(StorageError, match="cannot write .*rank-00000.pt: the disk is full"):
        store.save(2, {"weights": torch.zeros(1 << 20)}, attempt="a1", metadata={})
    assert [info.step for info in store.committed()] == [1]
    assert not any("00000002" in name for name in files.files())
