"""Saving while training goes on: it stands still only for a copy into host memory."""

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from data.errors import ConfigError, JobError, StorageError
from ray_jobs.checkpoint.layout import CheckpointInfo
from ray_jobs.checkpoint.state import HostBuffers
from ray_jobs.checkpoint.store import CheckpointStore

logger = logging.getLogger(__name__)

Check = Callable[[Mapping[str, Any]], None]
"""Looks at a state that is about to be stored; a JobError of it is the save's."""


@dataclass(frozen=True)
class SaveResult:
    """Either `info`, of what is stored (`info.committed` says whether it counts), or `error`."""

    step: int
    info: CheckpointInfo | None
    error: JobError | None
    duration_s: float


class BackgroundSaver:
    """One save in flight, one copy of the state in host memory, whatever the storage does.

    Not for use from several threads. `attempt` must be new for each start of the processes.
    """

    def __init__(
        self,
        store: CheckpointStore,
        *,
        attempt: str,
        rank: int = 0,
        world_size: int = 1,
        check: Check | None = None,
    ) -> None:
        CheckpointInfo(0, world_size, attempt)  # a bad attempt is an error now, not at a save
        if not 0 <= rank < world_size:
            raise ConfigError("rank", f"is {rank}; must be in 0..{world_size - 1}")
        self._store = store
        self._attempt = attempt
        self._rank = rank
        self._world_size = world_size
        self._check = check
        self._buffers = HostBuffers()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._flight: Future[SaveResult] | None = None
        self._results: list[SaveResult] = []

    @property
    def busy(self) -> bool:
        return self._flight is not None and not self._flight.done()

    def submit(self, step: int, state: Mapping[str, Any], metadata: dict[str, Any]) -> None:
        """Copies `state`, then checks, stores, commits and prunes in the background.

        Waits for the save before it, should that one still be in flight; ask `busy` to skip
        instead. A failed save is a result with an error and never raises here; a state that
        could not be loaded again raises TypeError.
        """
        self._land()
        staged = self._buffers.copy(state)
        self._flight = self._thread.submit(self._save, step, staged, metadata)

    def results(self) -> list[SaveResult]:
        """What has ended since the last call, oldest first."""
        if not self.busy:
            self._land()
        ended, self._results = self._results, []
        return ended

    def wait(self) -> None:
        """Returns when nothing is in flight. Raises the oldest error not yet in `results()`."""
        self._land()
        for index, result in enumerate(self._results):
            if result.error is not None:
                del self._results[index]
                raise result.error

    def close(self) -> None:
        """Ends the thread after the save in flight; results stay readable."""
        self._land()
        self._thread.shutdown()

    def _land(self) -> None:
        flight, self._flight = self._flight, None
        if flight is not None:
            self._results.append(flight.result())

    def _save(self, step: int, staged: dict[str, Any], metadata: dict[str, Any]) -> SaveResult:
        start = time.monotonic()
        try:
            if self._check is not None:
                self._check(staged)
            info = self._store.save(
                step,
                staged,
                rank=self._rank,
                world_size=self._world_size,
                attempt=self._attempt,
                metadata=metadata,
            )
        except JobError as error:
            logger.warning("checkpoint of step %d was not saved: %s", step, error)
            return SaveResult(step, None, error, time.monotonic() - start)
        self._prune(info)
        return SaveResult(step, info, None, time.monotonic() - start)

    def _prune(self, info: CheckpointInfo) -> None:
        if info.committed:
            try:
                self._store.prune()
            except StorageError as error:
                logger.warning("old checkpoints were not deleted: %s", error)
