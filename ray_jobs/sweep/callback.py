"""`SweepCallback`: records in the ledger what Ray Tune does; `SweepStopper` ends the sweep.

It ends when its money is spent or when what happened could not be recorded.
"""

import logging
import time
from collections.abc import Callable, Collection
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial

from data.errors import JobError, StorageError
from ray_jobs.sweep.cost import NodeMeter
from ray_jobs.sweep.ledger import (
    FAILED,
    FINISHED,
    PLATEAU,
    RUNNING,
    STOPPED,
    WAITING,
    LedgerWriter,
    TrialRecord,
)
from ray_jobs.sweep.search import POINT
from ray_jobs.sweep.space import shown_point
from ray_jobs.sweep.trial import ELSEWHERE, FAILURE

logger = logging.getLogger(__name__)


class SweepCallback(Callback):
    """Finds the ledger's record of each of Ray Tune's trials, and records what happens to it.

    `price_at` tells what a trial costs an hour on the node with an address; `show` is called
    after every step of Ray Tune, and `on_end`, which may be set, when a trial has ended.
    """

    def __init__(
        self,
        writer: LedgerWriter,
        checks: int,
        metrics: Collection[str],
        *,
        price_at: Callable[[str], float | None],
        show: Callable[[], None],
    ) -> None:
        self._writer = writer
        self._checks = checks
        self._metrics = metrics
        self._price_at = price_at
        self.on_end: Callable[[], None] = lambda: None
        self._show = show
        self._records: dict[str, TrialRecord] = {}
        self._failures: dict[int, str] = {}
        self.problem: JobError | None = None
        """Why the sweep must end: the ledger or a trial's results could not be written."""

    def record_of(self, trial: Trial) -> TrialRecord:
        """The trial's record; a new one for a point that the search has just made."""
        if trial.trial_id not in self._records:
            claimed = {record.number for record in self._records.values()}
            same = (
                record
                for record in self._writer.ledger.open_trials()
                if record.number not in claimed and record.point == trial.config[POINT]
            )
            self._records[trial.trial_id] = next(same, None) or self._new(trial.config[POINT])
        return self._records[trial.trial_id]

    def _new(self, point: dict[str, Any]) -> TrialRecord:
        record = TrialRecord(len(self._writer.ledger.trials) + 1, dict(point))
        self._writer.ledger.trials.append(record)
        return record

    def on_trial_start(self, trial: Trial, **info: Any) -> None:
        self._writer.start(self.record_of(trial))

    def on_trial_result(self, trial: Trial, result: dict[str, Any], **info: Any) -> None:
        record = self.record_of(trial)
        if ELSEWHERE in result:
            self._writer.end(record, WAITING)
            self.problem = self.problem or StorageError(result[ELSEWHERE])
            return
        if FAILURE in result:
            self._failures[record.number] = result[FAILURE]
            return
        if not record.reports:
            logger.info(
                "sweep  trial %d (%s) runs as process %d on %s",
                *(record.number, shown_point(record.point), result["pid"], result["node_ip"]),
            )
        record.planned_steps = result["planned_steps"]
        price = self._price_at(result["node_ip"])  # None too for a node that has just gone
        record.cents_per_hour = record.cents_per_hour if price is None else price
        kept = ("check", "step", *self._metrics)
        self._writer.report(record, {name: result[name] for name in kept if name in result})
        if result.get("done"):  # ASHA's decision; a trial that ends by itself reports nothing
            self._end(record, STOPPED)
        else:
            self._keep(self._writer.save)

    def on_trial_complete(self, trial: Trial, **info: Any) -> None:
        record = self.record_of(trial)
        if record.state != RUNNING:
            return
        reason = self._failures.get(record.number)
        if reason is not None or not record.reports:
            self._end(record, FAILED, reason or "it ended without a report")
        else:
            self._end(record, FINISHED if record.check >= self._checks else PLATEAU)

    def on_trial_recover(self, trial: Trial, **info: Any) -> None:
        record = self.record_of(trial)
        self._writer.end(record, WAITING)
        logger.warning("sweep  trial %d lost its worker: restarting it", record.number)

    def on_trial_error(self, trial: Trial, **info: Any) -> None:
        text = str(trial.get_error() or "").strip() or "its worker died"
        self._end(self.record_of(trial), FAILED, text.splitlines()[-1])

    def on_step_end(self, **info: Any) -> None:
        self._show()

    def _end(self, record: TrialRecord, state: str, reason: str | None = None) -> None:
        self._writer.end(record, state, reason)
        if reason is not None:
            logger.warning("sweep  trial %d failed: %s", record.number, reason)
        self._keep(self._writer.save)
        self._keep(self.on_end)

    def _keep(self, act: Callable[[], None]) -> None:
        """Do it; a JobError ends the sweep, for Ray Tune would make a traceback of it."""
        try:
            act()
        except JobError as error:
            self.problem = self.problem or error


class SweepStopper(Stopper):
    """Ends the whole sweep when its money is spent, or something could not be recorded."""

    def __init__(self, meter: NodeMeter, callback: SweepCallback) -> None:
        self._meter = meter
        self._callback = callback

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        problem = self._callback.problem or self._meter.problem
        return self._meter.spent or problem is not None


class Throttle:
    """Lets something happen at most once in `interval_s`."""

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._last_s = clock()

    def due(self) -> bool:
        """Whether it is time; if so, the next time is counted from now."""
        now_s = self._clock()
        if now_s - self._last_s < self._interval_s:
            return False
        self._last_s = now_s
        return True
