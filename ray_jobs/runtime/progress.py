"""Log lines of a job: progress on one line, and the relay from the workers to the driver.

Workers log to the `ray_jobs` logger as any code does. `LogRelay` is a small actor that carries
these lines to the driver, whose output is what `ray job logs` shows; Ray's own log forwarding
would mix them with the output of every process.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from data.errors import JobError

POLL_INTERVAL_S = 0.5


@dataclass
class Progress:
    """Turns counts into "320/480  12.3 steps/s  0:13 left".

    `done_before`: what a resumed run found done; it counts for the share but not for the rate.
    """

    total: int
    unit: str
    price_cents_per_hour: int | None = None
    done_before: int = 0
    clock: Callable[[], float] = time.monotonic
    started_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.started_s = self.clock()

    def line(self, done: int) -> str:
        """One line for `done` of `total`."""
        elapsed_s = max(self.clock() - self.started_s, 1e-9)
        rate = (done - self.done_before) / elapsed_s
        parts = [f"{done:,}/{self.total:,} {self.unit}", f"{done / max(self.total, 1):.0%}"]
        if rate > 0:
            parts.append(
                f"{rate:,.1f} {self.unit}/s" if rate < 100 else f"{rate:,.0f} {self.unit}/s"
            )
            parts.append(f"{clock_time((self.total - done) / rate)} left")
        if self.price_cents_per_hour is not None:
            parts.append(f"${elapsed_s / 3600 * self.price_cents_per_hour / 100:.2f} so far")
        return "  ".join(parts)


def clock_time(seconds: float) -> str:
    """75 -> "1:15", 3675 -> "1:01:15"."""
    minutes, secs = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"


@ray.remote(num_cpus=0)
class LogRelay:
    """An actor that carries log lines, and the error that no retry can fix, to the driver."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._fatal: JobError | None = None

    def post(self, line: str) -> None:
        """Add a line for the driver to print."""
        self._lines.append(line)

    def drain(self) -> list[str]:
        """Take the lines posted since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def fail(self, error: JobError) -> None:
        """Record the error that ends the job; the first one stays."""
        self._fatal = self._fatal or error

    def fatal(self) -> JobError | None:
        """The error that ends the job, if any."""
        return self._fatal


class RelayHandler(logging.Handler):
    """A logging handler that posts each line to a `LogRelay`."""

    def __init__(self, relay: ray.actor.ActorHandle) -> None:
        super().__init__()
        self._relay = relay

    def emit(self, record: logging.LogRecord) -> None:
        self._relay.post.remote(self.format(record))


def log_to_relay(relay: ray.actor.ActorHandle) -> None:
    """In a worker: send the `ray_jobs` loggers' lines to the driver. Idempotent."""
    log_lines_to(RelayHandler(relay))


def log_lines_to(handler: logging.Handler) -> None:
    """Send the `ray_jobs` and `data` loggers' lines to `handler` alone. Idempotent."""
    for name in ("ray_jobs", "data"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False


def log_to_stdout() -> None:
    """In a driver: print the `ray_jobs` and `data` loggers' lines. Idempotent."""
    log_lines_to(logging.StreamHandler(sys.stdout))


@contextmanager
def relay_lines() -> Iterator[ray.actor.ActorHandle]:
    """A `LogRelay` on the driver's node; this process logs its lines until the block ends."""
    # On the driver's node: with a worker's node the relay would be lost, and every restart with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    relay = LogRelay.options(scheduling_strategy=here).remote()
    logger = logging.getLogger(__name__)
    ended = threading.Event()

    def pump() -> None:
        while not ended.wait(POLL_INTERVAL_S):
            _log(relay, logger)

    thread = threading.Thread(target=pump, daemon=True)
    thread.start()
    try:
        yield relay
    finally:
        ended.set()
        thread.join()
        _log(relay, logger)
        ray.kill(relay)


def _log(relay: ray.actor.ActorHandle, logger: logging.Logger) -> None:
    for line in ray.get(relay.drain.remote()):
        logger.info("%s", line)
