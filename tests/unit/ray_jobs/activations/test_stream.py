"""The shuffled stream: every row once, the same for any number of ranks, resumable anywhere."""

import threading
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.errors import ConfigError, CorruptFileError
from data.storage import Store
from ray_jobs.activations.shards import ActivationSet
from ray_jobs.activations.stream import ActivationStream, RankSlice, ShuffleOrder
from tests.activation_sets import numbered_rows, row_numbers, save_set

N_ROWS = 1000
SHARD_ROWS = 64


@pytest.fixture(scope="module")
def numbered_set(tmp_path_factory: pytest.TempPathFactory) -> ActivationSet:
    store = Store.open(str(tmp_path_factory.mktemp("set")))
    return save_set(store, numbered_rows([10] * 100), SHARD_ROWS, 100)


@pytest.fixture
def make_stream(numbered_set: ActivationSet, request: pytest.FixtureRequest):
    def make(**changes: object) -> ActivationStream:
        options = {"batch_size": 48, "window_shards": 4, "seed": 7} | changes
        stream = ActivationStream(numbered_set, **options)
        request.addfinalizer(stream.close)
        return stream

    return make


def numbers(stream: ActivationStream, step: int) -> list[int]:
    """The row numbers in a batch, its centring and scaling undone."""
    raw = stream.batch(step) / stream.activation_set.scale + stream.activation_set.mean
    return row_numbers(raw)


@pytest.mark.parametrize("batch_size", [1, 48, 64, 300, 999, N_ROWS])
@pytest.mark.parametrize("window_shards", [1, 4, 16, 99])
def test_every_row_once_an_epoch(make_stream, batch_size: int, window_shards: int) -> None:
    stream = make_stream(batch_size=batch_size, window_shards=window_shards)
    assert stream.steps_per_epoch == N_ROWS // batch_size
    for epoch in (0, 1) if batch_size > 1 else (0,):
        steps = range(epoch * stream.steps_per_epoch, (epoch + 1) * stream.steps_per_epoch)
        seen = Counter(number for step in steps for number in numbers(stream, step))
        assert len(seen) == stream.steps_per_epoch * batch_size
        assert set(seen.values()) == {1} and set(seen) <= set(range(N_ROWS))


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_share_one_global_batch(make_stream, world_size: int) -> None:
    alone = make_stream()
    ranks = [make_stream(rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in range(2 * alone.steps_per_epoch):
        parts = [stream.batch(step) for stream in ranks]
        assert torch.equal(torch.cat(parts), alone.batch(step))
    assert sum(len(part) for part in parts) == 48


def test_more_ranks_than_rows_in_a_batch(make_stream) -> None:
    ranks = [make_stream(batch_size=2, rank=rank, world_size=3) for rank in range(3)]
    assert [len(stream.batch(5)) for stream in ranks] == [0, 1, 1]


def test_resumed_stream_is_the_undisturbed_one(make_stream) -> None:
    undisturbed = make_stream()
    steps = range(2 * undisturbed.steps_per_epoch + 3)
    expected = [undisturbed.batch(step) for step in steps]
    for begin in (1, 4, 13, undisturbed.steps_per_epoch - 1, undisturbed.steps_per_epoch, 30):
        resumed = make_stream()
        for step in steps[begin : begin + 3]:
            assert torch.equal(resumed.batch(step), expected[step])


def test_epochs_and_seeds_differ(make_stream) -> None:
    stream, other = make_stream(), make_stream(seed=8)
    first = numbers(stream, 0)
    assert first != numbers(stream, stream.steps_per_epoch)
    assert first != numbers(other, 0)
    assert first == numbers(make_stream(), 0)


def test_batches_mix_the_shards_of_a_window(make_stream) -> None:
    stream = make_stream()
    for step in range(stream.steps_per_epoch):
        rows = numbers(stream, step)
        shards = Counter(row // SHARD_ROWS for row in rows)
        assert len(shards) >= 4 and max(shards.values()) <= 24
        assert sum(abs(a - b) == 1 for a, b in zip(rows, rows[1:], strict=False)) <= 6


def test_batch_is_centred_and_scaled(make_stream) -> None:
    batch = make_stream(batch_size=N_ROWS).batch(0)
    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    assert float(batch.pow(2).sum(1).mean()) == pytest.approx(4, rel=1e-5)


def test_next_window_is_loaded_ahead(make_stream) -> None:
    stream = make_stream()
    stream.batch(0)
    assert sorted(stream._windows) == [(0, 0), (0, 1)]
    stream._windows[0, 1].result(timeout=30)
    stream.batch(stream.steps_per_epoch - 1)
    assert sorted(stream._windows) == [(0, 3), (1, 0)]


def test_a_shard_that_changes_stops_the_stream(tmp_path: Path) -> None:
    numbered = save_set(Store.open(str(tmp_path)), numbered_rows([10] * 100), SHARD_ROWS, 100)
    path = tmp_path / "shard-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    stream = ActivationStream(numbered, batch_size=100, seed=0)
    with pytest.raises(CorruptFileError, match="shard-00003"):
        for step in range(stream.steps_per_epoch):
            stream.batch(step)
    stream.close()


def test_close_ends_the_thread(make_stream) -> None:
    stream = make_stream()
    stream.batch(0)
    stream.close()
    stream.close()
    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith("activation-window") for name in names)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": N_ROWS + 1}, "batch_size"),
        ({"window_shards": 0}, "window_shards"),
        ({"rank": 2, "world_size": 2}, "rank"),
    ],
)
def test_bad_field_is_named(make_stream, changes: dict[str, int], field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: "):
        make_stream(**changes)


@given(st.integers(1, 50), st.integers(1, 7), st.integers(0, 200), st.integers(0, 200), st.data())
def test_rank_slice_counts_what_it_owns(
    batch_size: int, world_size: int, start: int, length: int, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, world_size - 1))
    part = RankSlice(batch_size, rank, world_size)
    owned = part.owned(start, start + length)
    assert len(owned) == part.count_before(start + length) - part.count_before(start)
    assert all(part.low <= position % batch_size < part.high for position in owned)


@given(st.integers(1, 40), st.integers(1, 12))
def test_windows_are_even(n_shards: int, window_shards: int) -> None:
    order = ShuffleOrder((8,) * (n_shards - 1) + (3,), window_shards, 0).epoch(2)
    sizes = [len(window) for window in order.windows]
    assert sorted(shard for window in order.windows for shard in window) == list(range(n_shards))
    assert max(sizes) <= window_shards and max(sizes) - min(sizes) <= 1
    assert order.starts[-1] == order.order.n_rows
