"""Repeats what failed for a passing reason until it has made no progress for too long."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from data.storage.problems import explain, storage_error

logger = logging.getLogger(__name__)
T = TypeVar("T")
_MAX_DELAY_S = 5.0


class Progress:
    """How far any attempt has come, and since when none came further."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._furthest_bytes = 0
        self._since = clock()

    def reached(self, size_bytes: int) -> None:
        if size_bytes > self._furthest_bytes:
            self._furthest_bytes, self._since = size_bytes, self._clock()

    def stuck_s(self) -> float:
        return self._clock() - self._since


def with_retries(
    attempt: Callable[[Progress], T],
    *,
    doing: str,
    where: str,
    server: str | None,
    retry_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """The result of `attempt`, which may run several times and reports how far it has come.

    Raises StorageError at once for what cannot pass by itself (no permission, no bucket, a
    full disk), else when `retry_s` have gone by without progress. Other errors than OSError
    pass through.
    """
    progress, delay_s = Progress(clock), 0.25
    while True:
        try:
            return attempt(progress)
        except OSError as error:
            problem, stuck_s = explain(error, server), progress.stuck_s()
            if problem.permanent or stuck_s >= retry_s:
                raise storage_error(doing, where, problem, stuck_s) from error
            logger.warning("cannot %s %s yet: %s; trying again", doing, where, problem.reason)
            sleep(min(delay_s, max(retry_s - stuck_s, 0.0)))
            delay_s = min(delay_s * 2, _MAX_DELAY_S)
