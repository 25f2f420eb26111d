"""What stopping early has saved, and what a trial would have taken."""

from collections.abc import Iterable

from ray_jobs.sweep.ledger import TrialRecord


def steps_saved_share(trials: Iterable[TrialRecord]) -> float:
    """Share of the planned steps of all started trials that were not taken."""
    started = [trial for trial in trials if trial.reports]
    planned = sum(trial.planned_steps or 0 for trial in started)
    return 1 - sum(trial.steps for trial in started) / planned if planned else 0.0


def worker_seconds_saved_share(trials: Iterable[TrialRecord]) -> float:
    """Share of the worker time that running every started trial to its end would have taken;
    the rest of each stopped trial is estimated from its own pace."""
    started = [trial for trial in trials if trial.reports]
    whole = sum(whole_seconds(trial) for trial in started)
    return 1 - sum(trial.seconds for trial in started) / whole if whole else 0.0


def whole_seconds(trial: TrialRecord) -> float:
    """Worker-seconds of a trial with a report, had it run to its end at its own pace.

    The pace is that between its first and its last report, so that its start counts once.
    """
    if trial.planned_steps is None or trial.steps >= trial.planned_steps:
        return trial.seconds
    first, last = trial.reports[0], trial.reports[-1]
    steps = last["step"] - first["step"]
    if steps:
        pace = (last["seconds"] - first["seconds"]) / steps
    else:
        pace = last["seconds"] / last["step"]
    return trial.seconds + (trial.planned_steps - trial.steps) * pace
