"""Do rungs that weigh gain against cost find as good a trial for less money?

Part of `benchmarks.sweep`. The rule is Syne Tune's (`CostPromotionRungSystem`): where plain
ASHA lets a trial go on that is among the best 1/eta of a rung by number, this one lets it go on
if the trials that are at least as good have together cost no more than 1/eta of what all of
them have. Here in the stopping form that Ray Tune's ASHA has; the best of a rung always goes on.

Learning curves and pace of every trial are those of a full search; two workers are simulated,
over many orders of the trials.
"""

import heapq
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

WORKERS = 2
ORDERS = 50
RUNGS = (1, 3)
REDUCTION_FACTOR = 3


@dataclass(frozen=True)
class Curve:
    """What a trial would report at each check, and what it has cost by then."""

    checks: tuple[int, ...]
    values: tuple[float, ...]
    cpu_seconds: tuple[float, ...]

    @staticmethod
    def of(trial: dict[str, Any]) -> "Curve":
        """From the record of a trial that was run to its end."""
        reports = trial["reports"]
        return Curve(
            tuple(r["check"] for r in reports),
            tuple(r["fvu"] for r in reports),
            tuple(r["cpu_seconds"] for r in reports),
        )


Entry = tuple[float, float]
"""Metric (lower is better) and cost of a trial at a rung."""
GoesOn = Callable[[Entry, Sequence[Entry]], bool]


def plain(new: Entry, before: Sequence[Entry]) -> bool:
    """Ray Tune's rule: not behind the 1/eta quantile of those that came before."""
    if not before:
        return True
    values = sorted(value for value, _ in before)
    place = (len(values) - 1) / REDUCTION_FACTOR
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return new[0] <= values[low] + (place - low) * (values[high] - values[low])


def cost_aware(new: Entry, before: Sequence[Entry]) -> bool:
    """The better ones, this one included, have cost at most 1/eta of all."""
    everyone = [*before, new]
    better = sum(cost for value, cost in everyone if value <= new[0])
    is_best = all(new[0] <= value for value, _ in before)
    return is_best or better <= sum(cost for _, cost in everyone) / REDUCTION_FACTOR


def simulate(curves: Sequence[Curve], goes_on: GoesOn) -> tuple[float, float]:
    """(CPU-seconds spent, best final value) with WORKERS workers that take trials in order."""
    rungs: dict[int, list[Entry]] = {rung: [] for rung in RUNGS}
    waiting = list(range(len(curves)))[::-1]
    events: list[tuple[float, int, int]] = []
    spent, finals = 0.0, []

    def start(now_s: float) -> None:
        if waiting:
            trial = waiting.pop()
            heapq.heappush(events, (now_s + curves[trial].cpu_seconds[0], trial, 0))

    for _ in range(WORKERS):
        start(0.0)
    while events:
        now_s, trial, index = heapq.heappop(events)
        curve = curves[trial]
        last = index == len(curve.checks) - 1
        if last:
            finals.append(curve.values[index])
        if last or not _passes(curve, index, rungs, goes_on):
            spent += curve.cpu_seconds[index]
            start(now_s)
        else:
            step_s = curve.cpu_seconds[index + 1] - curve.cpu_seconds[index]
            heapq.heappush(events, (now_s + step_s, trial, index + 1))
    return spent, min(finals)


def _passes(curve: Curve, index: int, rungs: dict[int, list[Entry]], goes_on: GoesOn) -> bool:
    for rung, entries in rungs.items():
        before = curve.checks[index - 1] if index else 0
        if before < rung <= curve.checks[index]:
            new = (curve.values[index], curve.cpu_seconds[index])
            result = goes_on(new, entries)
            entries.append(new)
            return result
    return True


def compare(searches: Sequence[Sequence[Curve]]) -> str:
    """A Markdown table of both rules over all searches and ORDERS orders of each."""
    lines = [
        f"{len(searches)} searches x {ORDERS} orders, {WORKERS} workers",
        "",
        "| rungs | CPU-seconds saved, mean | best FVU worse by, mean | within 1 % |",
        "|---|---|---|---|",
    ]
    for name, rule in (("plain ASHA", plain), ("cost-aware", cost_aware)):
        saved, gaps = [], []
        for curves in searches:
            whole = sum(curve.cpu_seconds[-1] for curve in curves)
            goal = min(curve.values[-1] for curve in curves)
            for seed in range(ORDERS):
                order = list(curves)
                random.Random(seed).shuffle(order)
                spent, found = simulate(order, rule)
                saved.append(1 - spent / whole)
                gaps.append(found / goal - 1)
        within = sum(gap <= 0.01 for gap in gaps) / len(gaps)
        lines.append(
            f"| {name} | {statistics.mean(saved):.1%} | {statistics.mean(gaps):.2%} "
            f"| {within:.0%} |"
        )
    return "\n".join(lines)
