"""`RungScheduler`: Ray Tune's ASHA, decided anew at every report.

ASHA (arXiv 1810.05934): a trial that reaches a rung continues if it is among the best
1/reduction_factor of those that have reached it. The paper promotes whenever a worker is free. Ray
Tune decides once, when the trial arrives, against the few that arrived before it, so that what a
sweep saves and finds depends on the order of its trials. Here Ray Tune keeps the rungs, and

- a trial is stopped, at any report, once successive halving over all that have arrived so far
  would have stopped it at a rung that it has reached;
- a stopped trial that would not be stopped any more is resumed from its checkpoint;
- the rungs may lie closer together than the reduction factor would have them.

The best of those that have come furthest is never stopped: at least one trial finishes.
`benchmarks/RESULTS.md` has what this saves and finds.
"""

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.ledger import STOPPED, WAITING, TrialRecord

logger = logging.getLogger(__name__)

RecordOf = Callable[[Trial], TrialRecord]


@dataclass(frozen=True)
class _Named:
    """As much of a trial as ASHA looks at."""

    trial_id: str


class RungScheduler(ASHAScheduler):
    """ASHA whose rungs know a trial by its number in the sweep, which outlives the driver, and not
    by the id that Ray Tune draws at each start."""

    def __init__(self, record_of: RecordOf, config: SweepConfig, **options: Any) -> None:
        super().__init__(reduction_factor=config.rung_spacing, **options)
        self._record_of = record_of
        self._config = config
        self._bracket = self._brackets[0]

    def _named(self, trial: Trial) -> _Named:
        return _Named(str(self._record_of(trial).number))

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, self._named(trial))

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        named = self._named(trial)
        super().on_trial_result(tune_controller, named, result)  # takes its place at a rung
        at_end = result["check"] >= self._config.checks
        behind = not at_end and self._is_behind(named.trial_id)
        return TrialScheduler.STOP if behind else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict) -> None:
        super().on_trial_complete(tune_controller, self._named(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_remove(tune_controller, self._named(trial))

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_error(tune_controller, self._named(trial))

    def _is_behind(self, name: str) -> bool:
        """Whether successive halving over all that have come so far leaves a trial."""
        continuing: list[str] | None = None
        for _, recorded in reversed(self._bracket._rungs):  # from the first rung on
            if name not in recorded:
                return False
            here = [each for each in recorded if continuing is None or each in continuing]
            # More is better; of equals, the one that came first.
            here.sort(key=lambda each: recorded[each], reverse=True)
            continuing = here[: math.ceil(len(here) / self._config.reduction_factor)]
            if name not in continuing:
                return True
        return False

    def may_return(self, record: TrialRecord) -> bool:
        """Whether a stopped trial could yet be resumed: at the first rung later trials can only
        rank before it, and the number that continue is fixed in the end."""
        if record.state != STOPPED:
            return False
        _, first = self._bracket._rungs[-1]
        before = sum(value > first[str(record.number)] for value in first.values())
        return before < math.ceil(self._config.trials / self._config.reduction_factor)

    def call_back(self, records: Iterable[TrialRecord]) -> None:
        """Queue the trials that were stopped and are not behind any more."""
        for record in records:
            if record.state == STOPPED and not self._is_behind(str(record.number)):
                record.state = WAITING
                logger.info("sweep  trial %d is among the best now: resuming it", record.number)

    def replay(self, records: Iterable[TrialRecord]) -> None:
        """Fill the rungs with what these trials reported, in the order they did."""
        records = list(records)
        for record in records:
            super().on_trial_add(None, _Named(str(record.number)))
        reports = [
            (report["order"], record, report) for record in records for report in record.reports
        ]
        for _, record, report in sorted(reports, key=lambda entry: entry[0]):
            super().on_trial_result(None, _Named(str(record.number)), report)


def make_scheduler(
    config: SweepConfig, rising: bool, record_of: RecordOf, before: Iterable[TrialRecord]
) -> RungScheduler | None:
    """The scheduler of `config`, None for none; `before` are the trials of the sweep so far.

    The last check is no rung: a trial that gets there has ended, and its result counts.
    """
    if config.scheduler == "none":
        return None
    scheduler = RungScheduler(
        record_of,
        config,
        time_attr="check",
        metric=config.metric,
        mode="max" if rising else "min",
        max_t=max(config.checks - 1, config.grace_checks),
        grace_period=config.grace_checks,
        stop_last_trials=False,
    )
    scheduler.replay(record for record in before if record.reports)
    return scheduler


def rungs(config: SweepConfig) -> list[int]:
    """Checks at which a trial is compared with the others."""
    if config.scheduler == "none":
        return []
    found, check = [], config.grace_checks
    while check < config.checks:
        found.append(check)
        check *= config.rung_spacing
    return found
