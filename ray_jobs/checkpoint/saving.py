"""Checkpoints of a running training: when one is due, saved in the background, and resumed from.

`Saving` decides. A checkpoint is due every N steps, every M minutes and at the end of an epoch;
one that falls due while another is in flight waits for it instead of stopping the training. State
that is replicated over the ranks is saved by rank 0 alone, so that no rank waits for another; of
state that is sharded over the ranks each saves its part, in the same step.

`BackgroundSaver` saves: the training stands still only while the state is copied into host memory.
"""

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from data.errors import ConfigError, JobError, NonFiniteError, StorageError
from ray_jobs.checkpoint.layout import CheckpointInfo
from ray_jobs.checkpoint.state import HostBuffers
from ray_jobs.checkpoint.store import CheckpointStore, Readers
from ray_jobs.runtime.collectives import (
    all_agree,
    from_rank,
    from_rank_zero,
    machine_leaders,
    world_size,
)

logger = logging.getLogger(__name__)

RESUMING = "train  resuming from checkpoint %s (step %d)"
"""Logged where a training does not start at step 0."""

MAX_FAILED_SAVES = 3
"""Failed checkpoints in a row, each after its own retries, before the job stops: what it computes
cannot be kept, and the machine costs money."""

Check = Callable[[Mapping[str, Any]], None]
"""Inspects a state before it is stored; a JobError that it raises fails the save."""


class Saving:
    """The checkpoints of one state; every rank calls every method.

    `state()` gives the state to save (see `ray_jobs.checkpoint.state`), `metadata` is JSON stored
    with it. `shared_out`: the state is sharded; `state()` is collective and gives each rank its
    part, which it writes itself, and deciding whether a save starts costs a vote. `check` runs in
    the background; a NonFiniteError of it ends the training, and the checkpoint before is kept.
    """

    def __init__(
        self,
        store: CheckpointStore,
        rank: int,
        state: Callable[[], dict[str, Any]],
        metadata: dict[str, Any],
        every_steps: int,
        every_minutes: float,
        clock: Callable[[], float] = time.monotonic,
        shared_out: bool = False,
        check: Check | None = None,
    ) -> None:
        self._store = store
        self._rank = rank
        self._state = state
        self._metadata = metadata
        self._every_steps = every_steps
        self._every_s = every_minutes * 60
        self._clock = clock
        self._shared_out = shared_out
        self._saved_s = clock()
        self._due = False
        self._failed = 0
        attempt = from_rank_zero(uuid.uuid4().hex[:8]) if shared_out else uuid.uuid4().hex[:8]
        writers = world_size() if shared_out else 1
        self._saver = (
            BackgroundSaver(store, attempt=attempt, rank=rank, world_size=writers, check=check)
            if rank < writers
            else None
        )

    def load(self) -> dict[str, Any] | None:
        """The newest state that verifies on every rank, or None; collective."""
        return load_together(self._store, self._rank)

    def save_if_due(self, step: int, epoch_ends: bool) -> None:
        """Start a save in the background if one is due and none is in flight.

        Raises:
            StorageError: MAX_FAILED_SAVES saves in a row have failed.
            NonFiniteError: `check` has refused the state of an earlier save.
        """
        starts = self._saver is not None and self._starts_now(self._saver, step, epoch_ends)
        if all_agree(starts) if self._shared_out else starts:
            self._submit(step)

    def save_now(self, step: int) -> None:
        """Save and wait until it is stored; where that fails, the checkpoint before is kept.
        Collective if the state is sharded."""
        self._submit(step)
        self.settle()
        self._wait_for_others()

    def settle(self) -> None:
        """Wait until no save of this rank is in flight."""
        if self._saver is not None:
            with suppress(StorageError):  # the saver has logged it
                self._saver.wait()

    def finish(self, step: int) -> None:
        """Save the last state and wait until it is committed.

        Raises:
            StorageError, NonFiniteError: it cannot be stored; the newest committed one is kept.
        """
        self._submit(step)
        if self._saver is not None:
            self._saver.close()
            last = self._saver.results()[-1]
            if last.error is not None:
                raise last.error
        self._wait_for_others()

    def _starts_now(self, saver: "BackgroundSaver", step: int, epoch_ends: bool) -> bool:
        late = self._clock() - self._saved_s >= self._every_s
        self._due = self._due or epoch_ends or late or step % self._every_steps == 0
        self._look_at_results(saver)
        return (self._due or self._rank > 0) and not saver.busy

    def _submit(self, step: int) -> None:
        if self._saver is not None:
            self._saver.submit(step, self._state(), self._metadata)
            self._due, self._saved_s = False, self._clock()

    def _wait_for_others(self) -> None:
        """A sharded checkpoint is committed when the last part is stored."""
        if self._shared_out:
            all_agree(True)

    def _look_at_results(self, saver: "BackgroundSaver") -> None:
        for result in saver.results():
            self._failed = 0 if result.error is None else self._failed + 1
            if result.info is not None and result.info.committed:
                logger.info(
                    "train  checkpoint of step %d committed (%.1f s)",
                    result.step,
                    result.duration_s,
                )
            if isinstance(result.error, NonFiniteError):
                raise result.error
            if self._failed >= MAX_FAILED_SAVES:
                raise StorageError(
                    f"{self._failed} checkpoints in a row could not be stored, the last because: "
                    f"{result.error}; the newest committed one is kept"
                )


def load_together(store: CheckpointStore, rank: int) -> dict[str, Any] | None:
    """The newest state of a store that verifies on every rank, or None; collective."""
    leader = machine_leaders()[rank]
    readers = Readers(
        leads=leader == rank,
        all_agree=all_agree,
        from_rank_zero=from_rank_zero,
        from_leader=lambda value: from_rank(value, leader),
    )
    found = store.load_newest(readers)
    if found is None:
        return None
    info, state = found
    if rank == 0:
        logger.info(RESUMING, info.name, info.step)
    return state


@dataclass(frozen=True)
class SaveResult:
    """Either `info`, of what is stored (`info.committed` says whether it counts), or `error`."""

    step: int
    info: CheckpointInfo | None
    error: JobError | None
    duration_s: float


class BackgroundSaver:
    """A thread that saves one state at a time, from one copy of it in host memory.

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
        self._in_flight: Future[SaveResult] | None = None
        self._results: list[SaveResult] = []

    @property
    def busy(self) -> bool:
        return self._in_flight is not None and not self._in_flight.done()

    def submit(self, step: int, state: Mapping[str, Any], metadata: dict[str, Any]) -> None:
        """Copy `state`, then check, store, commit and prune in the background.

        Waits for the save before it, should that one still be in flight; ask `busy` to skip
        instead. A failed save is a result with an error and never raises here.

        Raises:
            TypeError: the state has an entry that could not be loaded again.
        """
        self._collect()
        staged = self._buffers.copy(state)
        self._in_flight = self._thread.submit(self._save, step, staged, metadata)

    def results(self) -> list[SaveResult]:
        """The saves that have ended since the last call, oldest first."""
        if not self.busy:
            self._collect()
        ended, self._results = self._results, []
        return ended

    def wait(self) -> None:
        """Wait until nothing is in flight. Raises the oldest error not yet in `results()`."""
        self._collect()
        for index, result in enumerate(self._results):
            if result.error is not None:
                del self._results[index]
                raise result.error

    def close(self) -> None:
        """End the thread after the save in flight; results stay readable."""
        self._collect()
        self._thread.shutdown()

    def _collect(self) -> None:
        future, self._in_flight = self._in_flight, None
        if future is not None:
            self._results.append(future.result())

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
