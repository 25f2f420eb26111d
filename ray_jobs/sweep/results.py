"""What a sweep leaves: `best/`, `sweep.html`, its summary; and what it removes on the way."""

from collections.abc import Callable, Mapping
from typing import Any

from ray_jobs.errors import JobError
from ray_jobs.run_directory import result_files, seal
from ray_jobs.storage import Store
from ray_jobs.sweep.job import FinishTrial, Plan
from ray_jobs.sweep.ledger import WHOLE, Ledger, TrialRecord
from ray_jobs.sweep.savings import steps_saved_share, worker_seconds_saved_share
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

    def remove_losers(self, again: bool = False) -> None:
        """Delete results and checkpoints of every ended trial but the best.

        `again` once all workers are gone: one that was stopped may have been writing still.
        """
        best = self._ledger.best(self._plan.config.metric, self._plan.rising)
        kept = [t.point for t in self._ledger.trials if t is best or not t.ended]
        for trial in self._ledger.trials:
            if trial.point in kept or (trial.number in self._removed and not again):
                continue
            self.of(trial).delete_tree("")
            self._removed.add(trial.number)


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
    best = ledger.best(plan.config.metric, plan.rising)
    if best is None:
        reasons = {trial.reason for trial in ledger.trials if trial.reason}
        why = f": {sorted(reasons)[0]}" if reasons else ""
        raise JobError(f"the sweep ended ({ledger.ended}) without the result of a trial{why}")
    source, target = folders.of(best), output.child(BEST)
    if best.state not in WHOLE:
        check = finish(best.point, source)
        if check is None:
            raise JobError(
                f"the sweep ended ({ledger.ended}) before trial {best.number} had a checkpoint: "
                "add --resume and a larger --max-cost-usd"
            )
        # What it reported after its checkpoint is no result that anybody could have.
        best.reports = [report for report in best.reports if report["check"] <= check]
    target.delete_tree("")
    for name in result_files(source):
        target.write_bytes(name, source.read_bytes(name))
    seal(target, {**identity(best.point), "sweep": ledger.identity, "point": best.point})
    return best


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
