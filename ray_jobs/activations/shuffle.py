"""The order in which a stream visits a set's rows: arithmetic alone, no activation is read.

Shards are permuted for each epoch and cut into windows; the rows of a window are permuted.
The concatenation of all windows is the epoch. Everything follows from (seed, epoch, window),
so any place of any epoch is found at once.
"""

from dataclasses import dataclass

import numpy as np

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
