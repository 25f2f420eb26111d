"""What stopping early has saved, and what a trial would have taken."""

import statistics
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
    start_s = start_seconds(started)
    whole = sum(whole_seconds(trial, start_s) for trial in started)
    return 1 - sum(trial.seconds for trial in started) / whole if whole else 0.0


def start_seconds(trials: Iterable[TrialRecord]) -> float:
    """Median of the time before the first step, over the trials that tell it by two reports."""
    starts = [
        max(0.0, trial.reports[0]["seconds"] - trial.reports[0]["step"] * pace)
        for trial in trials
        if (pace := _pace(trial)) is not None
    ]
    return statistics.median(starts) if starts else 0.0


def whole_seconds(trial: TrialRecord, start_s: float) -> float:
    """Worker-seconds of a trial with a report, had it run to its end at its own pace.

    The pace is that between its first and its last report, so that its start counts once; with
    one report, that of the time after `start_s`.
    """
    if trial.planned_steps is None or trial.steps >= trial.planned_steps:
        return trial.seconds
    pace = _pace(trial)
    if pace is None:
        first = trial.reports[0]
        pace = max(0.0, first["seconds"] - start_s) / first["step"]
    return trial.seconds + (trial.planned_steps - trial.steps) * pace


def _pace(trial: TrialRecord) -> float | None:
    """Seconds a step between the first and the last report; None where they are one."""
    if len(trial.reports) < 2:
        return None
    first, last = trial.reports[0], trial.reports[-1]
    return (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])
