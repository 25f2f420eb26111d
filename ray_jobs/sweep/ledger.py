"""`Ledger`: every trial's point, state, reports and cost, kept in `sweep.json`.

A sweep resumes from that file. It is written anew after every report, through the checked store,
so that it outlives driver and cluster alike. Ray Tune's own state lives in a scratch directory and
is never needed again.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from data.errors import ConfigError
from data.storage import Store
from ray_jobs.sweep.space import Point

LEDGER = "sweep.json"

WAITING, RUNNING = "waiting", "running"
FINISHED = "finished"
"""Ran to the end of its plan."""
PLATEAU = "plateau"
"""Ended by the job itself, whose metric had stopped improving."""
STOPPED = "stopped"
"""Behind the others at a rung."""
FAILED = "failed"
COMPLETE = (FINISHED, PLATEAU)
"""States with a result."""
ENDED = (*COMPLETE, STOPPED, FAILED)
"""States that are never left."""


@dataclass
class TrialRecord:
    """One trial of a sweep."""

    number: int
    point: Point
    state: str = WAITING
    reports: list[dict[str, Any]] = field(default_factory=list)
    """In order: {"check", "step", "seconds", "order", <metric>: value}; `seconds` of this trial
    and `order` among all reports of the sweep, so far."""
    seconds: float = 0.0
    """A worker was held by this trial, over all attempts."""
    planned_steps: int | None = None
    cents_per_hour: float | None = None
    """Price of its share of the node on which it last reported."""
    reason: str | None = None
    """Why it failed."""

    @property
    def ended(self) -> bool:
        """Whether it will never run again."""
        return self.state in ENDED

    @property
    def check(self) -> int:
        """Of the last report; 0 before it."""
        return self.reports[-1]["check"] if self.reports else 0

    @property
    def steps(self) -> int:
        """Of the last report; 0 before it."""
        return self.reports[-1]["step"] if self.reports else 0

    @property
    def cost_cents(self) -> float | None:
        """So far, at its last price; None without one."""
        return None if self.cents_per_hour is None else self.seconds / 3600 * self.cents_per_hour

    def value(self, metric: str) -> float | None:
        """The metric's last value, if any."""
        return self.reports[-1][metric] if self.reports else None


@dataclass
class Ledger:
    """All trials, in the order of their numbers, and what the sweep is."""

    identity: dict[str, Any]
    """What decides the sweep's outcome; plain JSON."""
    trials: list[TrialRecord] = field(default_factory=list)
    ended: str | None = None
    """Why the sweep is over; None while it runs."""

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` brings it back."""
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Ledger":
        """What a killed sweep left: what was running waits again."""
        trials = [TrialRecord(**trial) for trial in value["trials"]]
        for trial in trials:
            if trial.state == RUNNING:
                trial.state = WAITING
        return Ledger(**{**value, "trials": trials})

    def open_trials(self) -> list[TrialRecord]:
        """Trials that are still to be run or to be ended."""
        return [trial for trial in self.trials if not trial.ended]

    def best(self, metric: str, rising: bool) -> TrialRecord | None:
        """The best of the trials with a result; before there is any, of those with a report."""
        complete = [trial for trial in self.trials if trial.state in COMPLETE]
        rest = [t for t in self.trials if t.reports and t.state not in (STOPPED, FAILED)]
        sign = -1 if rising else 1
        return min(
            (trial for trial in complete or rest if trial.reports),
            key=lambda trial: (sign * trial.reports[-1][metric], trial.number),
            default=None,
        )


class LedgerWriter:
    """Records what happens to the trials of a ledger, their running time included."""

    def __init__(
        self, ledger: Ledger, store: Store, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.ledger = ledger
        self._store = store
        self._clock = clock
        self._since: dict[int, float] = {}
        self._order = max((r["order"] for t in ledger.trials for r in t.reports), default=0)

    def start(self, record: TrialRecord) -> None:
        """A worker has been given to the trial."""
        record.state = RUNNING
        self._since[record.number] = self._clock()

    def report(self, record: TrialRecord, report: dict[str, Any]) -> bool:
        """Keep a report; False, and nothing is kept, for one that repeats an earlier one.

        A trial that resumes from a checkpoint repeats what it measured before it.
        """
        self.tick(record)
        if report["check"] <= record.check:
            return False
        self._order += 1
        record.reports.append({**report, "seconds": record.seconds, "order": self._order})
        return True

    def end(self, record: TrialRecord, state: str, reason: str | None = None) -> None:
        """The trial's worker is free again."""
        self.tick(record)
        self._since.pop(record.number, None)
        record.state, record.reason = state, reason

    def release_all(self) -> None:
        """No worker is left: what was running waits."""
        for record in self.ledger.trials:
            if record.state == RUNNING:
                self.end(record, WAITING)

    def tick(self, record: TrialRecord) -> None:
        """Bring `record.seconds` up to now."""
        if record.number in self._since:
            now_s = self._clock()
            record.seconds += now_s - self._since[record.number]
            self._since[record.number] = now_s

    def save(self) -> None:
        """Write `sweep.json`."""
        self._store.write_json(LEDGER, self.ledger.to_json())


def open_ledger(store: Store, identity: dict[str, Any], resume: bool) -> Ledger:
    """The ledger in `store`, or a new one.

    Raises:
        ConfigError: there is a sweep and `resume` is not asked for, or it is another sweep.
    """
    if not store.exists(LEDGER):
        return Ledger(identity)
    ledger = Ledger.from_json(store.read_json(LEDGER))
    _check_same(ledger.identity, identity, store.label)
    if ledger.ended is None and not resume:
        raise ConfigError(
            "output_dir",
            f"{store.label} holds a sweep that has not ended: add --resume to resume it, or "
            "give another directory",
        )
    return ledger


def _check_same(old: dict[str, Any], new: dict[str, Any], where: str) -> None:
    for name in {**old, **new}:
        before, now = old.get(name), new.get(name)
        if before == now:
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            return _check_same(before, now, where)
        raise ConfigError(
            name,
            f"the sweep in {where} was started with {before!r}, not {now!r}: give the same, or "
            "another --output-dir",
        )


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
