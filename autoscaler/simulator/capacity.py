"""When an offering (instance type in a region) has machines to give."""

import random
from bisect import bisect_right
from fnmatch import fnmatchcase

from autoscaler.simulator.cloud.config import CloudConfig


class Capacity:
    """Fixed windows where there are any, else random openings, else always.

    Random openings are drawn from the seed and the offering's name, hence are the same
    whenever and in whatever order one asks.
    """

    def __init__(self, config: CloudConfig, began_at: float) -> None:
        self._config = config
        self._began_at = began_at
        self._toggles: dict[tuple[str, str], _Toggles] = {}

    def open(self, instance_type: str, region: str, at: float) -> bool:
        """Whether the offering has capacity at a time."""
        t = max(0.0, at - self._began_at)
        matching = [
            w
            for w in self._config.windows
            if fnmatchcase(instance_type, w.instance_type) and fnmatchcase(region, w.region)
        ]
        if matching:
            return any(w.opens_s <= t < w.closes_s for w in matching)
        mean_open_s = self._config.mean_open_s
        if mean_open_s is None:
            return True
        offering = (instance_type, region)
        if offering not in self._toggles:
            seed = f"{self._config.seed} capacity {instance_type} {region}"
            self._toggles[offering] = _Toggles(seed, mean_open_s, self._config.mean_closed_s)
        return self._toggles[offering].open(t)

    def advertised(self, instance_type: str, region: str, at: float) -> bool:
        """Whether the price list shows the offering at a time: capacity a while ago."""
        return self.open(instance_type, region, at - self._config.advertised_lag_s)


class _Toggles:
    """An alternation of open and closed spells, exponentially long, drawn as far as asked."""

    def __init__(self, seed: str, mean_open_s: float, mean_closed_s: float) -> None:
        self._means = (mean_closed_s, mean_open_s)
        self._rng = random.Random(seed)
        self._open_at_first = self._rng.random() < mean_open_s / (mean_open_s + mean_closed_s)
        self._times = [0.0]

    def open(self, t: float) -> bool:
        while self._times[-1] <= t:
            is_open = self._open_at_first == (len(self._times) % 2 == 1)
            self._times.append(self._times[-1] + self._rng.expovariate(1 / self._means[is_open]))
        spell = bisect_right(self._times, t) - 1
        return self._open_at_first == (spell % 2 == 0)
