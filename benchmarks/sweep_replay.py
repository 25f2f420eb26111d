"""What would other rules of stopping have saved and found?

    python -m benchmarks.sweep_replay --folder DIR

DIR is that of `python -m benchmarks.sweep --folder DIR`: the learning curves of its full
searches are told, check by check, to the schedulers themselves, Ray Tune's and ours, by two
simulated workers; in the order of the search and in 50 others. A trial that is called back pays
for a new start and for the check that it had reported but not saved. Prints Markdown.
"""

import argparse
import heapq
import json
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from ray_jobs.sae.early_stopping import PlateauRule, PlateauState, observe
from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.ledger import STOPPED, TrialRecord
from ray_jobs.sweep.scheduler import RungScheduler, make_scheduler

WORKERS = 2
ORDERS = 50
START_CPU_S = 1.5
"""Of a trial that goes on from a checkpoint, generously."""
CHECKS = 12
PLATEAU = PlateauRule(patience=2)
"""As in the benchmark: a tenth of a trial, in checks."""


@dataclass(frozen=True)
class Curve:
    """What a trial reports at each check, and the CPU time it has taken by then."""

    values: tuple[float, ...]
    cpu_s: tuple[float, ...]

    @staticmethod
    def of(trial: dict[str, Any]) -> "Curve":
        """From the record of a trial that was run to its end, in however many checks."""
        steps, cpu = ([0.0, *(r[n] for r in trial["reports"])] for n in ("step", "cpu_seconds"))
        values = [r["fvu"] for r in trial["reports"]]
        at = [check * steps[-1] / CHECKS for check in range(1, CHECKS + 1)]
        return Curve(tuple(np.interp(at, steps[1:], values)), tuple(np.interp(at, steps, cpu)))


@dataclass(frozen=True)
class Outcome:
    """Of one sweep."""

    steps_saved: float
    cpu_saved: float
    worse_by: float

    @property
    def meets_floor(self) -> bool:
        """60 % of steps and of CPU time saved, and the best within 1 %."""
        return min(self.steps_saved, self.cpu_saved) >= 0.6 and self.worse_by <= 0.01


Verdicts = Callable[[list[TrialRecord]], Any]
"""Makes a scheduler over a sweep's records."""


def ray_tune(grace: int, factor: int) -> Verdicts:
    """Ray Tune's ASHA as it is."""
    return lambda _: ASHAScheduler(
        time_attr="check", metric="fvu", mode="min", max_t=CHECKS - 1, grace_period=grace,
        reduction_factor=factor, stop_last_trials=False,
    )  # fmt: skip


def ours(**fields: int) -> Verdicts:
    """That of a sweep."""

    def make(records: list[TrialRecord]) -> Any:
        config = SweepConfig(trials=len(records), checks=CHECKS, **fields)
        return make_scheduler(config, False, lambda t: records[int(t.trial_id)], records)

    return make


class Replay:
    """One sweep over curves."""

    def __init__(self, curves: Sequence[Curve], verdicts: Verdicts) -> None:
        self.curves = curves
        self.verdicts = verdicts
        self.records = [TrialRecord(number, {}) for number in range(len(curves))]
        self.plateau = [PlateauState() for _ in curves]
        self.again_cpu_s = 0.0

    def run(self) -> Outcome:
        """All trials, and those that are called back, until none is."""
        while True:
            scheduler = self.verdicts(self.records)
            if isinstance(scheduler, RungScheduler):
                scheduler.call_back(self.records)
            waiting = [record for record in self.records if not record.ended]
            if not waiting:
                return self._outcome()
            self._round(waiting, scheduler)

    def _round(self, waiting: list[TrialRecord], scheduler: Any) -> None:
        queue, order = waiting[::-1], 0
        running: list[tuple[float, int]] = []

        def start(now_s: float) -> None:
            if queue:
                record = queue.pop()
                scheduler.on_trial_add(None, _named(record))
                heapq.heappush(running, (now_s + self._next_s(record, begins=True), record.number))

        for _ in range(WORKERS):
            start(0.0)
        while running:
            now_s, number = heapq.heappop(running)
            record, order = self.records[number], order + 1
            self._report(record, scheduler, order)
            if record.ended:
                start(now_s)
            else:
                heapq.heappush(running, (now_s + self._next_s(record), number))

    def _next_s(self, record: TrialRecord, begins: bool = False) -> float:
        """CPU time to the next report; with the check that is computed again at a new start."""
        cpu_s = (0.0, *self.curves[record.number].cpu_s)
        again_s = 0.0
        if begins and record.check:
            again_s = START_CPU_S + cpu_s[record.check] - cpu_s[record.check - 1]
        self.again_cpu_s += again_s
        return again_s + cpu_s[record.check + 1] - cpu_s[record.check]

    def _report(self, record: TrialRecord, scheduler: Any, order: int) -> None:
        check, number = record.check + 1, record.number
        fvu = self.curves[number].values[check - 1]
        report = {"check": check, "step": check, "fvu": fvu, "order": order}
        verdict = scheduler.on_trial_result(None, _named(record), report)
        record.reports.append(report)
        self.plateau[number], flat = observe(PLATEAU, self.plateau[number], fvu)
        if check == CHECKS:
            record.state = "finished"
        elif verdict == TrialScheduler.STOP:
            record.state = STOPPED
        elif flat:
            record.state = "plateau"

    def _outcome(self) -> Outcome:
        cpu_s = sum(self.curves[r.number].cpu_s[r.check - 1] for r in self.records)
        checks = sum(record.check for record in self.records)
        whole = [r.reports[-1]["fvu"] for r in self.records if r.state != STOPPED]
        return Outcome(
            1 - checks / (CHECKS * len(self.curves)),
            1 - (cpu_s + self.again_cpu_s) / sum(curve.cpu_s[-1] for curve in self.curves),
            min(whole) / min(curve.values[-1] for curve in self.curves) - 1,
        )


def _named(record: TrialRecord) -> Any:
    return SimpleNamespace(trial_id=str(record.number))


RULES: dict[str, Verdicts] = {
    "Ray Tune's ASHA, rungs 1, 3, 9, one in 3": ray_tune(1, 3),
    "Ray Tune's ASHA, rungs 2, 6, one in 3": ray_tune(2, 3),
    "Ray Tune's ASHA, rungs 2, 4, 8, one in 2": ray_tune(2, 2),
    "Ray Tune's ASHA, rungs 2, 8, one in 4": ray_tune(2, 4),
    "asked again, rungs 2, 6, one in 3": ours(grace_checks=2, rung_spacing=3, reduction_factor=3),
    "asked again, rungs 2, 4, 8, one in 3": ours(reduction_factor=3),
    "asked again, rungs 2, 4, 8, one in 4": ours(),
    "asked again, rungs 2, 4, 8, one in 5": ours(reduction_factor=5),
}


def row(name: str, verdicts: Verdicts, searches: Sequence[Sequence[Curve]]) -> str:
    """A rule's line of the table."""
    given = [Replay(curves, verdicts).run() for curves in searches]
    found = []
    for curves in searches:
        for seed in range(ORDERS):
            order = random.Random(seed).sample(list(curves), len(curves))
            found.append(Replay(order, verdicts).run())
    steps, cpu = ([getattr(o, n) for o in found] for n in ("steps_saved", "cpu_saved"))
    met = sum(outcome.meets_floor for outcome in found) / len(found)
    within = sum(outcome.worse_by <= 0.01 for outcome in found) / len(found)
    own = "; ".join(f"{o.steps_saved:.0%}, {o.cpu_saved:.0%}, {o.worse_by:.2%}" for o in given)
    return (
        f"| {name} | {statistics.mean(steps):.1%} ({min(steps):.0%}) | "
        f"{statistics.mean(cpu):.1%} ({min(cpu):.0%}) | {within:.0%} | {met:.0%} | {own} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--folder", type=Path, required=True)
    found = sorted(parser.parse_args().folder.glob("full*/sweep.json"))
    ledgers = [json.loads(each.read_text())["trials"] for each in found]
    whole = [each for each in ledgers if all(trial["state"] == "finished" for trial in each)]
    searches = [[Curve.of(trial) for trial in trials] for trials in whole]
    print(f"{len(searches)} searches, {ORDERS} orders of each, {WORKERS} workers\n")
    print(
        "| rule | steps saved, mean (least) | CPU-seconds saved | within 1 % | all three | "
        "order of the search: steps, CPU, worse by |\n|---|---|---|---|---|---|"
    )
    for name, verdicts in RULES.items():
        print(row(name, verdicts, searches), flush=True)


if __name__ == "__main__":
    main()
