"""The results of a sweep: `best/` and its summary; trials that cannot win are deleted."""

from collections.abc import Callable, Mapping
from typing import Any

from data.errors import JobError
from data.storage import Store
from ray_jobs.results.run_directory import result_files, write_manifest
from ray_jobs.sweep.ledger import (
    COMPLETE,
    Ledger,
    TrialRecord,
    steps_saved_share,
    worker_seconds_saved_share,
)
from ray_jobs.sweep.plan import FinishTrial, Plan
from ray_jobs.sweep.space import Point
from ray_jobs.sweep.trial import trial_folder

BEST = "best"
PAGE = "sweep.html"


class Folders:
    """The folders of all trials; keeps those that may still win."""

    def __init__(self, plan: Plan, ledger: Ledger, folders: Store) -> None:
        self._plan = plan
        self._ledger = ledger
        self._folders = folders
        self._removed: set[int] = set()

    def of(self, trial: TrialRecord) -> Store:
        """A trial's folder."""
        return trial_folder(self._folders, trial.point)

    def remove_losers(self, may_return: Callable[[TrialRecord], bool]) -> None:
        """Delete results and checkpoints of every ended trial but the best and those that may be
        resumed."""
        for trial in self._losers():
            if trial.number not in self._removed and not may_return(trial):
                self.of(trial).delete_tree("")
                self._removed.add(trial.number)

    def remove_all_losers(self) -> None:
        """The same once all workers are gone: one that was stopped may have been writing still."""
        for trial in self._losers():
            self.of(trial).delete_tree("")

    def _losers(self) -> list[TrialRecord]:
        best = self._ledger.best(self._plan.config.metric, self._plan.rising)
        kept = [t.point for t in self._ledger.trials if t is best or not t.ended]
        return [trial for trial in self._ledger.trials if trial.point not in kept]


def leave_best(
    plan: Plan,
    ledger: Ledger,
    folders: Folders,
    output: Store,
    finish: FinishTrial,
    identity: Callable[[Point], Mapping[str, Any]],
) -> TrialRecord:
    """Make `best/` of the best trial: its run directory, as if it had run alone. Idempotent.

    Raises:
        JobError: no trial has a result, and none has a checkpoint to make one of.
    """
    best = _best_with_results(plan, ledger, folders, finish)
    if best is None:
        reasons = {trial.reason for trial in ledger.trials if trial.reason}
        why = f": {sorted(reasons)[0]}" if reasons else ""
        fix = "; add --resume and a larger --max-cost-cents" if ledger.open_trials() else ""
        raise JobError(
            f"the sweep ended ({ledger.ended}) before a trial had a result or a checkpoint{why}"
            f"{fix}"
        )
    source, target = folders.of(best), output.child(BEST)
    target.delete_tree("")
    for name in result_files(source):
        target.write_bytes(name, source.read_bytes(name))
    write_manifest(target, {**identity(best.point), "sweep": ledger.identity, "point": best.point})
    return best


def _best_with_results(
    plan: Plan, ledger: Ledger, folders: Folders, finish: FinishTrial
) -> TrialRecord | None:
    """The best of the trials that have results, or a checkpoint that they can be made of.

    What a trial reported after its checkpoint cannot be reproduced from it, so those reports are
    dropped, by which another trial may become the best.
    """
    finished: list[TrialRecord] = []
    while (best := ledger.best(plan.config.metric, plan.rising)) is not None:
        if best.state in COMPLETE or best in finished:
            return best
        check = finish(best.point, folders.of(best)) or 0
        best.reports = [report for report in best.reports if report["check"] <= check]
        finished.append(best)
    return None


def summary(plan: Plan, ledger: Ledger, best: TrialRecord) -> dict[str, Any]:
    """The contract's keys."""
    return {
        "steps_saved_share": steps_saved_share(ledger.trials),
        "worker_seconds_saved_share": worker_seconds_saved_share(ledger.trials),
        "best": dict(best.point),
        "best_metric": best.value(plan.config.metric),
    }


def states(ledger: Ledger) -> Mapping[str, int]:
    """How many trials are in each state."""
    counts: dict[str, int] = {}
    for trial in ledger.trials:
        counts[trial.state] = counts.get(trial.state, 0) + 1
    return counts
