"""When a training saves, and what it does when a save fails.

Due are checkpoints every N steps, every M minutes and at the end of an epoch; one that falls
due while another is in flight waits for it instead of stopping the training. State that is
replicated over the ranks is saved by rank 0 alone, so that no rank waits for another; state that
must be gathered from all ranks is gathered when rank 0 says so.
"""

import logging
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ray_jobs.checkpoint import BackgroundSaver, CheckpointStore
from ray_jobs.collectives import all_agree, from_rank_zero
from ray_jobs.errors import StorageError

logger = logging.getLogger(__name__)

MAX_FAILED_SAVES = 3
"""Failed checkpoints in a row, each after its own retries, before the job says that it stops:
what it computes cannot be kept, and the machine costs money."""


class Saving:
    """Checkpoints of one state; every rank calls, rank 0 writes.

    `state()` gives the state to save (see `ray_jobs.checkpoint`), `metadata` goes beside it.
    `gathers`: every rank must call `state()` for rank 0 to have it; asking costs a broadcast.
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
        gathers: bool = False,
    ) -> None:
        self._store = store
        self._rank = rank
        self._state = state
        self._metadata = metadata
        self._every_steps = every_steps
        self._every_s = every_minutes * 60
        self._clock = clock
        self._gathers = gathers
        self._saved_s = clock()
        self._due = False
        self._failed = 0
        self._attempt = uuid.uuid4().hex[:8]
        self._saver = BackgroundSaver(store, attempt=self._attempt) if rank == 0 else None

    def load(self) -> dict[str, Any] | None:
        """The newest state that verifies on every rank, or None; collective."""
        found = self._store.load_newest(
            rank=self._rank, all_agree=all_agree, from_rank_zero=from_rank_zero
        )
        if found is None:
            return None
        info, state = found
        if self._rank == 0:
            logger.info("train  going on from checkpoint %s (step %d)", info.name, info.step)
        return state

    def save_if_due(self, step: int, epoch_ends: bool) -> None:
        """Start a save in the background if one is due and none is in flight.

        Raises:
            StorageError: MAX_FAILED_SAVES saves in a row have failed.
        """
        due = self._saver is not None and self._starts_now(self._saver, step, epoch_ends)
        if from_rank_zero(due) if self._gathers else due:
            self._submit(step)

    def _starts_now(self, saver: BackgroundSaver, step: int, epoch_ends: bool) -> bool:
        late = self._clock() - self._saved_s >= self._every_s
        self._due = self._due or epoch_ends or late or step % self._every_steps == 0
        self._look_at_results(saver)
        return self._due and not saver.busy

    def _submit(self, step: int) -> None:
        state = self._state()
        if self._saver is not None:
            self._saver.submit(step, state, self._metadata)
            self._due, self._saved_s = False, self._clock()

    def save_now(self, step: int) -> None:
        """Save and wait until it is stored; where that fails, the checkpoint before stays."""
        if self._saver is not None or self._gathers:
            self._submit(step)
        self.settle()

    def settle(self) -> None:
        """Wait until no save is in flight."""
        if self._saver is not None:
            with suppress(StorageError):  # the saver has said so
                self._saver.wait()

    def finish(self, step: int) -> None:
        """Save the last state and wait until it is committed.

        Raises:
            StorageError: it cannot be stored; the newest committed checkpoint stays.
        """
        if self._saver is None and not self._gathers:
            return
        self._submit(step)
        if self._saver is not None:
            self._saver.close()
            last = self._saver.results()[-1]
            if last.error is not None:
                raise last.error

    def _look_at_results(self, saver: BackgroundSaver) -> None:
        for result in saver.results():
            self._failed = 0 if result.error is None else self._failed + 1
            if result.error is None:
                logger.info(
                    "train  checkpoint of step %d committed (%.1f s)",
                    result.step,
                    result.duration_s,
                )
            elif self._failed >= MAX_FAILED_SAVES:
                raise StorageError(
                    f"{self._failed} checkpoints in a row could not be stored, the last because: "
                    f"{result.error}; the newest committed one stays"
                )
