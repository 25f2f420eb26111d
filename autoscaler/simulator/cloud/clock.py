"""Clocks of the simulated cloud: virtual time that tests advance, or scaled real time.

Cloud time (`now`) drives boots, capacity, faults and the bill. Client time (`client_now`)
drives the rate limits alone: a client paces itself in real time, whatever the cloud's speed.
In virtual time both are the same.
"""

import threading
import time
from typing import Protocol

VIRTUAL_EPOCH_S = 1_767_225_600.0
"""2026-01-01T00:00:00Z, where virtual time begins: runs of one seed have equal times."""


class Clock(Protocol):
    """The cloud's source of time. Neither reading ever goes back."""

    def now(self) -> float:
        """Cloud time in seconds since the epoch."""
        ...

    def client_now(self) -> float:
        """The time by which clients pace their requests, in seconds."""
        ...


class VirtualClock:
    """Time that only `advance` moves. Safe across threads."""

    def __init__(self, start_s: float = VIRTUAL_EPOCH_S) -> None:
        self._now = start_s
        self._lock = threading.Lock()

    def now(self) -> float:
        return self._now

    def client_now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> float:
        """Advances time and returns the new time. ValueError for a negative step."""
        if not seconds >= 0:
            raise ValueError(f"seconds: time cannot go back by {seconds}")
        with self._lock:
            self._now += seconds
            return self._now


class ScaledClock:
    """Real time, `speed` cloud seconds to one real second.

    Cloud time starts at the wall clock's time, so that creation times make sense.
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
