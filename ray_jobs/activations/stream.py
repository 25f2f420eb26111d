"""Shuffled batches of activations for training, the same for any number of ranks.

The cursor is the step: `batch(step)` finds its rows by arithmetic alone (`ShuffleOrder`), so that
a resumed training costs one window, wherever it resumes.
"""

import mmap
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.errors import ConfigError
from ray_jobs.activations.shards import ActivationSet

# Keep the two kinds of permutation of one epoch apart.
_SHARDS, _ROWS = 0, 1


@dataclass(frozen=True)
class ShuffleOrder:
    """Rows of each shard, how many shards are mixed at a time, and a seed."""

    shard_rows: tuple[int, ...]
    window_shards: int
    seed: int

    @property
    def n_rows(self) -> int:
        return sum(self.shard_rows)

    @property
    def n_windows(self) -> int:
        return -(-len(self.shard_rows) // self.window_shards)

    def epoch(self, epoch: int) -> "EpochOrder":
        """The windows of one epoch, even in size, so that none mixes only a shard or two."""
        rng = np.random.default_rng([self.seed, epoch, _SHARDS])
        shards = rng.permutation(len(self.shard_rows))
        windows = [part.tolist() for part in np.array_split(shards, self.n_windows)]
        sizes = [sum(self.shard_rows[shard] for shard in window) for window in windows]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        return EpochOrder(self, epoch, windows, starts)


@dataclass(frozen=True)
class EpochOrder:
    """windows[w] lists shards; starts[w] is the epoch's position of its first row, starts[-1]
    the number of rows."""

    order: ShuffleOrder
    epoch: int
    windows: list[list[int]]
    starts: np.ndarray

    def windows_of(self, begin: int, end: int) -> range:
        """The windows that hold positions [begin, end), begin < end."""
        first, last = np.searchsorted(self.starts, [begin, end - 1], side="right") - 1
        return range(int(first), int(last) + 1)

    def permutation(self, window: int) -> np.ndarray:
        """(n,) int64: the row within the window (its shards concatenated) at each position."""
        rng = np.random.default_rng([self.order.seed, self.epoch, _ROWS, window])
        return rng.permutation(int(self.starts[window + 1] - self.starts[window]))


@dataclass(frozen=True)
class RankSlice:
    """Rank `rank` of `world_size` takes positions [low, high) of each batch of `batch_size`.

    The global batch is the same for any world size.
    """

    batch_size: int
    rank: int
    world_size: int

    @property
    def low(self) -> int:
        return self.rank * self.batch_size // self.world_size

    @property
    def high(self) -> int:
        return (self.rank + 1) * self.batch_size // self.world_size

    def owned(self, start: int, stop: int) -> np.ndarray:
        """The rank's positions among [start, stop), ascending."""
        positions = np.arange(start, stop)
        within = positions % self.batch_size
        return positions[(within >= self.low) & (within < self.high)]

    def count_before(self, position: int) -> int:
        """How many of the rank's positions lie below `position`."""
        batches, within = divmod(position, self.batch_size)
        share = self.high - self.low
        return batches * share + min(max(within - self.low, 0), share)


_WindowKey = tuple[int, int]


class ActivationStream:
    """An endless sequence of batches over epochs of `activation_set`.

    batch_size     rows of the global batch, over all ranks
    window_shards  shards whose rows are mixed; a rank holds its share of two windows in memory
    device         where batches are wanted; they travel there as bfloat16
    cache_dir      where a node keeps shards of a bucket: those of two windows at most

    Rows behind an epoch's last whole batch are left out of that epoch. Not for use by several
    threads. Errors: ConfigError naming the field; CorruptFileError or StorageError from `batch`
    when a shard is not what the manifest says.
    """

    def __init__(
        self,
        activation_set: ActivationSet,
        *,
        batch_size: int,
        window_shards: int = 8,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        cache_dir: Path | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        _check(activation_set, batch_size, window_shards, rank, world_size)
        self.activation_set = activation_set
        self.batch_size = batch_size
        self.steps_per_epoch = activation_set.n_ordinary // batch_size
        self.device = torch.device(device)
        rows = tuple(shard.ordinary_rows for shard in activation_set.manifest.shards)
        self._order = ShuffleOrder(rows, window_shards, seed)
        self._slice = RankSlice(batch_size, rank, world_size)
        self._files = activation_set.files(keep=2 * window_shards, cache_dir=cache_dir)
        self._mean = activation_set.mean.to(self.device)
        self._epoch: EpochOrder | None = None
        self._windows: dict[_WindowKey, Future[Tensor]] = {}
        self._loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="activation-window")

    def batch(self, step: int) -> Tensor:
        """This rank's rows [rank * B // W, (rank + 1) * B // W) of global batch `step` >= 0.

        float32 on `device`, centred and scaled: (x - mean) * scale.
        """
        raw = self._raw_batch(step)
        if self.device.type == "cuda":
            raw = raw.pin_memory().to(self.device, non_blocking=True)
        return raw.float().sub_(self._mean).mul_(self.activation_set.scale)

    def close(self) -> None:
        """Drop the windows and end the background thread. Idempotent."""
        self._windows.clear()
        self._loader.shutdown(wait=True, cancel_futures=True)

    def _raw_batch(self, step: int) -> Tensor:
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        order = self._epoch_order(epoch)
        begin = step_of_epoch * self.batch_size
        windows = order.windows_of(begin, begin + self.batch_size)
        following = _following(order, windows[-1])
        self._schedule([*((epoch, window) for window in windows), following])
        parts = []
        for window in windows:
            first = int(order.starts[window])
            offset = self._slice.count_before(first)
            low = max(self._slice.count_before(begin) - offset, 0)
            high = self._slice.count_before(begin + self.batch_size) - offset
            parts.append(self._windows[epoch, window].result()[low:high])
        return torch.cat(parts)

    def _epoch_order(self, epoch: int) -> EpochOrder:
        if self._epoch is None or self._epoch.epoch != epoch:
            self._epoch = self._order.epoch(epoch)
        return self._epoch

    def _schedule(self, keys: list[_WindowKey]) -> None:
        """Hold these windows and no other; what is not there yet is loaded in the background."""
        for key in [key for key in self._windows if key not in keys]:
            self._windows.pop(key).cancel()
        for key in keys:
            if key not in self._windows:
                self._windows[key] = self._loader.submit(self._load, *key)

    def _load(self, epoch: int, window: int) -> Tensor:
        """(n, d_in) bfloat16: the rank's rows of a window, in the order of their use."""
        order = self._order.epoch(epoch)
        start, stop = int(order.starts[window]), int(order.starts[window + 1])
        wanted = order.permutation(window)[self._slice.owned(start, stop) - start]
        result = _mapped(len(wanted), self.activation_set.d_in)
        first = 0
        for shard in order.windows[window]:
            rows = self._files.load(shard).ordinary
            places = np.flatnonzero((wanted >= first) & (wanted < first + len(rows)))
            source = torch.from_numpy(wanted[places] - first)
            result[torch.from_numpy(places)] = rows[source]
            first += len(rows)
        return result


def _mapped(rows: int, d_in: int) -> Tensor:
    """(rows, d_in) bfloat16 in a memory map of its own.

    The kernel gets it back when it is dropped; from the heap, windows of ever other sizes
    would leave holes that add up over the epochs.
    """
    memory = mmap.mmap(-1, max(2, 2 * rows * d_in))
    return torch.frombuffer(memory, dtype=torch.bfloat16)[: rows * d_in].view(rows, d_in)


def _following(order: EpochOrder, window: int) -> _WindowKey:
    last = len(order.windows) - 1
    return (order.epoch, window + 1) if window < last else (order.epoch + 1, 0)


def _check(
    activation_set: ActivationSet, batch_size: int, window_shards: int, rank: int, world_size: int
) -> None:
    if not 1 <= batch_size <= activation_set.n_ordinary:
        raise ConfigError(
            "batch_size", f"{batch_size} is outside 1..{activation_set.n_ordinary}, the set's rows"
        )
    if window_shards < 1:
        raise ConfigError("window_shards", f"{window_shards} is below 1")
    if not 0 <= rank < world_size:
        raise ConfigError("rank", f"{rank} is outside 0..{world_size - 1}")
