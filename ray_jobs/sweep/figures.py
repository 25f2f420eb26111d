"""Plots of a sweep: learning curves with the stops marked, and parallel coordinates."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from ray_jobs.results.figures import STYLE, svg
from ray_jobs.sweep.ledger import FAILED, PLATEAU, STOPPED, TrialRecord
from ray_jobs.sweep.space import Choice, Dimension, Space, shown_value

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
