"""The two clocks of the simulated cloud.

Cloud time (`now`) drives boots, capacity, faults and the bill. Client time (`client_now`)
drives the rate limits alone: a client paces itself by its own watch, which a sped-up cloud
does not speed up. In virtual time both are the same.
"""

import threading
import time
from typing import Protocol

VIRTUAL_EPOCH_S = 1_767_225_600.0
"""Where virtual time begins: 2026-01-01T00:00:00Z, so that runs with one seed are equal."""


class Clock(Protocol):
    """What the cloud asks of a clock."""

    def now(self) -> float:
        """Cloud time in seconds since the epoch; never goes back."""
        ...

    def client_now(self) -> float:
        """The time by which a client paces its requests, in seconds; never goes back."""
        ...


class VirtualClock:
    """Time that stands still until `advance`. Safe across threads."""

    def __init__(self, start_s: float = VIRTUAL_EPOCH_S) -> None:
        self._now = start_s
        self._lock = threading.Lock()

    def now(self) -> float:
        return self._now

    def client_now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> float:
        """Moves time on and returns the new time. ValueError for a negative step."""
        if not seconds >= 0:
            raise ValueError(f"seconds: time cannot go back by {seconds}")
        with self._lock:
            self._now += seconds
            return self._now


class ScaledClock:
    """Real time, `speed` cloud seconds to one real second.

    Cloud time starts at the wall clock's reading, so that creation times make sense.
    """

    def __init__(self, speed: float = 1.0) -> None:
        if not speed > 0:
            raise ValueError(f"speed: {speed} must be above 0")
        self.speed = speed
        self._epoch_s = time.time()
        self._started_s = time.monotonic()

    def now(self) -> float:
        return self._epoch_s + (time.monotonic() - self._started_s) * self.speed

    def client_now(self) -> float:
        return time.monotonic()
