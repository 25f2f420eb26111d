"""When a training saves, and what it does when a save fails.

Due are checkpoints every N steps, every M minutes and at the end of an epoch; one that falls
due while another is in flight waits for it instead of stopping the training. State that is
replicated over the ranks is saved by rank 0 alone, so that no rank waits for another; of state
that the ranks share out each saves its part, when rank 0 says so.
"""

import logging
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from data.errors import NonFiniteError, StorageError
from ray_jobs.checkpoint import BackgroundSaver, Check, CheckpointStore, Readers
from ray_jobs.runtime.collectives import (
    all_agree,
    from_rank,
    from_rank_zero,
    machine_leaders,
    world_size,
)

logger = logging.getLogger(__name__)

GOING_ON = "train  going on from checkpoint %s (step %d)"
"""Said where a training does not begin at its beginning."""

MAX_FAILED_SAVES = 3
"""Failed checkpoints in a row, each after its own retries, before the job says that it stops:
what it computes cannot be kept, and the machine costs money."""


class Saving:
    """Checkpoints of one state; every rank calls, rank 0 writes.

    `state()` gives the state to save (see `ray_jobs.checkpoint`), `metadata` goes beside it.
    `shared_out`: `state()` is collective and gives each rank its part, which it writes itself;
    asking costs a vote. `check` looks at what is to be stored, in the background: a NonFiniteError
    of it ends the training, and the checkpoint before stays.
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
            NonFiniteError: of `check`, about a save before.
        """
        starts = self._saver is not None and self._starts_now(self._saver, step, epoch_ends)
        if all_agree(starts) if self._shared_out else starts:
            self._submit(step)

    def _starts_now(self, saver: BackgroundSaver, step: int, epoch_ends: bool) -> bool:
        late = self._clock() - self._saved_s >= self._every_s
        self._due = self._due or epoch_ends or late or step % self._every_steps == 0
        self._look_at_results(saver)
        return (self._due or self._rank > 0) and not saver.busy

    def _submit(self, step: int) -> None:
        if self._saver is not None:
            self._saver.submit(step, self._state(), self._metadata)
            self._due, self._saved_s = False, self._clock()

    def save_now(self, step: int) -> None:
        """Save and wait until it is stored; where that fails, the checkpoint before stays.
        Collective if the state is shared out."""
        self._submit(step)
        self.settle()
        self._wait_for_others()

    def settle(self) -> None:
        """Wait until no save of this rank is in flight."""
        if self._saver is not None:
            with suppress(StorageError):  # the saver has said so
                self._saver.wait()

    def finish(self, step: int) -> None:
        """Save the last state and wait until it is committed.

        Raises:
            StorageError, NonFiniteError: it cannot be stored; the newest committed one stays.
        """
        self._submit(step)
        if self._saver is not None:
            self._saver.close()
            last = self._saver.results()[-1]
            if last.error is not None:
                raise last.error
        self._wait_for_others()

    def _wait_for_others(self) -> None:
        """A checkpoint counts when the last part is there."""
        if self._shared_out:
            all_agree(True)

    def _look_at_results(self, saver: BackgroundSaver) -> None:
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
                    f"{result.error}; the newest committed one stays"
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
        logger.info(GOING_ON, info.name, info.step)
    return state
