"""Ray Tune's ASHA, told again what happened before a sweep was interrupted.

ASHA (arXiv 1810.05934) in its stopping form: a trial that reaches a rung goes on if it is among
the best 1/reduction_factor of those that have reached it so far, and is stopped otherwise.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.ledger import TrialRecord

RecordOf = Callable[[Trial], TrialRecord]


@dataclass(frozen=True)
class _Named:
    """As much of a trial as ASHA looks at."""

    trial_id: str


class RungScheduler(ASHAScheduler):
    """ASHA whose rungs know a trial by its number in the sweep, which outlives the driver, and
    not by the id that Ray Tune draws anew at each start."""

    def __init__(self, record_of: RecordOf, **options: Any) -> None:
        super().__init__(**options)
        self._record_of = record_of

    def _named(self, trial: Trial) -> _Named:
        return _Named(str(self._record_of(trial).number))

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, self._named(trial))

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        return super().on_trial_result(tune_controller, self._named(trial), result)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict) -> None:
        super().on_trial_complete(tune_controller, self._named(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_remove(tune_controller, self._named(trial))

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_error(tune_controller, self._named(trial))

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
) -> TrialScheduler:
    """The scheduler of `config`; `before` are the trials of the sweep so far.

    The last check is no rung: a trial that comes so far has ended, and its result is wanted.
    """
    if config.scheduler == "none":
        return FIFOScheduler()
    scheduler = RungScheduler(
        record_of,
        time_attr="check",
        metric=config.metric,
        mode="max" if rising else "min",
        max_t=max(config.checks - 1, config.grace_checks),
        grace_period=config.grace_checks,
        reduction_factor=config.reduction_factor,
        stop_last_trials=False,
    )
    scheduler.replay(before)
    return scheduler


def rungs(config: SweepConfig) -> list[int]:
    """Checks at which a trial may be stopped for its rank."""
    if config.scheduler == "none":
        return []
    found, check = [], config.grace_checks
    while check < config.checks:
        found.append(check)
        check *= config.reduction_factor
    return found
