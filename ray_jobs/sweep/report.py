"""`sweep.html`: what was tried, what was stopped where, what won, and what that cost."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from ray_jobs.results.figures import STYLE, svg
from ray_jobs.results.page import Section, Table, render_page
from ray_jobs.runtime.progress import clock_time
from ray_jobs.sweep.cost import dollars
from ray_jobs.sweep.ledger import FAILED, PLATEAU, STOPPED, Ledger, TrialRecord
from ray_jobs.sweep.plan import Plan
from ray_jobs.sweep.results import states, summary
from ray_jobs.sweep.scheduler import rungs
from ray_jobs.sweep.space import Choice, Dimension, Space, shown_point, shown_value
from ray_jobs.sweep.table import shown_rung

COLOURS = colormaps["viridis_r"]
MARKS = {STOPPED: "x", PLATEAU: "s", FAILED: "*"}
"""At the end of the curve of a trial that did not run to its end."""


def learning_curves(
    trials: Sequence[TrialRecord], metric: str, best: TrialRecord, rung_checks: Sequence[int]
) -> str:
    """The metric over the checks of every trial with a report; the best is drawn heavy."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(10, 4), layout="constrained")
        for trial in trials:
            checks = [report["check"] for report in trial.reports]
            values = [report[metric] for report in trial.reports]
            is_best = trial.number == best.number
            colour = "#0b6e99" if is_best else "#9ab"
            axes.plot(
                checks,
                values,
                color=colour,
                linewidth=2.5 if is_best else 0.9,
                zorder=3 if is_best else 2,
            )
            if checks and trial.state in MARKS:
                axes.plot(checks[-1:], values[-1:], MARKS[trial.state], color="#c33", zorder=4)
        for check in rung_checks:
            axes.axvline(check, color="#444", linestyle=":", linewidth=0.8)
        for state, mark in MARKS.items():
            axes.plot([], [], mark, color="#c33", label=state)
        axes.set(xlabel="check (dotted: rungs)", ylabel=metric)
        axes.legend(frameon=False, ncols=3)
        return svg(figure)


def parallel_coordinates(
    trials: Sequence[TrialRecord], metric: str, space: Space, rising: bool
) -> str:
    """A line a trial through its values, coloured by the metric's rank; the metric is last."""
    shown = sorted(
        (trial for trial in trials if trial.reports),
        key=lambda trial: trial.reports[-1][metric],
        reverse=not rising,
    )
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(figsize=(10, 4), layout="constrained")
        names = list(space.dimensions)
        metrics = [trial.reports[-1][metric] for trial in shown]
        low, high = min(metrics), max(metrics)
        for rank, trial in enumerate(shown):
            heights = [_height(space.dimensions[name], trial.point[name]) for name in names]
            heights.append((trial.reports[-1][metric] - low) / ((high - low) or 1))
            share = rank / max(1, len(shown) - 1)
            axes.plot(
                heights,
                color=COLOURS(0.1 + 0.9 * share),
                linewidth=0.8 + 1.4 * share**4,
                alpha=0.35 + 0.65 * share,
            )
        for place, name in enumerate(names):
            _scale(axes, place, _ticks(space.dimensions[name]))
        _scale(axes, len(names), [(0.0, low), (1.0, high)])
        axes.set_xticks(range(len(names) + 1), [*names, metric])
        axes.set(yticks=[], ylim=(-0.08, 1.08))
        axes.spines["left"].set_visible(False)
        return svg(figure)


def _height(dimension: Dimension, value: Any) -> float:
    """Where a value stands on its axis, from 0 to 1."""
    if isinstance(dimension, Choice):
        return sorted(dimension.values).index(value) / max(1, len(dimension.values) - 1)
    return math.log(value / dimension.low) / math.log(dimension.high / dimension.low)


def _ticks(dimension: Dimension) -> list[tuple[float, Any]]:
    values = sorted(dimension.values) if isinstance(dimension, Choice) else dimension.ends()
    return [(_height(dimension, value), value) for value in values]


def _scale(axes: Axes, place: int, ticks: Sequence[tuple[float, Any]]) -> None:
    axes.axvline(place, color="#444", linewidth=0.8)
    for height, value in ticks:
        axes.annotate(
            shown_value(value),
            (place, height),
            textcoords="offset points",
            xytext=(4, 2),
            fontsize=8,
            color="#222",
        )


def render_sweep(
    plan: Plan,
    ledger: Ledger,
    best: TrialRecord,
    spent_cents: float | None,
    price_source: str,
) -> str:
    """The page, without references to other files.

    `spent_cents` is None without prices; `price_source` says whose they are.
    """
    metric, result = plan.config.metric, summary(plan, ledger, best)
    verdict = (
        f"Trial {best.number} is the best: {metric} {result['best_metric']:.4f} at "
        f"{shown_point(best.point)}. {result['steps_saved_share']:.0%} of the steps and about "
        f"{result['worker_seconds_saved_share']:.0%} of the worker time of running every started "
        "trial to its end were saved."
    )
    facts = {
        "Job": plan.job.name,
        "Ended": f"{ledger.ended} ({_counts(ledger)})",
        "Search": f"{plan.config.search}, seed {plan.config.seed}, {plan.space.text}",
        "Stopping": _stopping(plan),
        "Worker time": clock_time(sum(trial.seconds for trial in ledger.trials)),
        "Cost of the nodes": dollars(spent_cents),
        "Prices": price_source,
    }
    curves = learning_curves(ledger.trials, metric, best, rungs(plan.config))
    sections = [
        Section("Learning curves", [curves]),
        Section(
            "What was tried",
            [parallel_coordinates(ledger.trials, metric, plan.space, plan.rising)],
            note="The darker the line, the better the trial; a stopped one counts with its last "
            "check.",
        ),
        Section("Trials", table=_trials(plan, ledger), note=_ON_COSTS),
    ]
    return render_page(f"Sweep of {plan.job.name}", [verdict], facts, sections)


_ON_COSTS = (
    "The worker time saved is estimated from each trial's own pace. A trial's cost is its share "
    "of a node; the nodes' cost has the time in which they idled or made the data ready too."
)


def _counts(ledger: Ledger) -> str:
    return ", ".join(f"{count} {state}" for state, count in states(ledger).items())


def _stopping(plan: Plan) -> str:
    config = plan.config
    rule = "none by rank"
    if config.scheduler != "none":
        rule = (
            f"ASHA: rungs at checks {', '.join(map(str, rungs(config)))} of {config.checks}, one "
            f"in {config.reduction_factor} of those that have reached a rung goes on"
        )
    return rule + ("; and the job's plateau rule" if plan.job.has_plateau_rule else "")


def _ranked(plan: Plan, ledger: Ledger) -> list[TrialRecord]:
    """Furthest first, then best first."""
    sign = -1 if plan.rising else 1

    def key(trial: TrialRecord) -> tuple[int, float, int]:
        value = trial.value(plan.config.metric)
        return (-trial.check, sign * value if value is not None else 0.0, trial.number)

    return sorted(ledger.trials, key=key)


def _trials(plan: Plan, ledger: Ledger) -> Table:
    header = ["trial", "config", "ended", "rungs", plan.config.metric, "steps", "worker time"]
    return Table([*header, "cost"], [_row(plan, trial) for trial in _ranked(plan, ledger)])


def _row(plan: Plan, trial: TrialRecord) -> list[str]:
    value = trial.value(plan.config.metric)
    return [
        str(trial.number),
        shown_point(trial.point),
        trial.state if trial.reason is None else f"{trial.state}: {trial.reason}",
        shown_rung(plan, trial),
        "-" if value is None else f"{value:.4f}",
        f"{trial.steps}/{trial.planned_steps or '-'}",
        clock_time(trial.seconds),
        dollars(trial.cost_cents),
    ]
