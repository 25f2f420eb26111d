"""Plots of a run as SVG text, to stand inside a page without any other file."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.fonttype": "none",  # text stays text: smaller, and it can be searched
    "svg.hashsalt": "raylambda",  # the same run gives the same bytes
}
COLOURS = {"latents": "#0b6e99", "raw": "#c2703d"}


def training_curves(history: Mapping[str, Any]) -> str:
    """Loss, FVU (training and held out) and dead share over the steps."""
    with plt.rc_context(STYLE):
        figure, (loss, fvu, dead) = plt.subplots(1, 3, figsize=(10, 2.9), layout="constrained")
        steps = history["steps"]
        loss.plot(steps, history["losses"], color="#444")
        loss.set(title="Loss", xlabel="step", yscale="log")
        fvu.plot(steps, history["fvu"], color="#9ab", label="training batch")
        checks = history["checks"]
        fvu.plot(
            [check["step"] for check in checks],
            [check["fvu"] for check in checks],
            "o-",
            markersize=3,
            color=COLOURS["latents"],
            label="held out",
        )
        fvu.set(title="Fraction of variance unexplained", xlabel="step", ylim=(0, 1))
        fvu.legend(frameon=False)
        dead.plot(steps, [100 * share for share in history["dead_share"]], color="#444")
        dead.set(
            title="Dead latents, %",
            xlabel="step",
            ylim=(0, max(1, 110 * max(history["dead_share"]))),
        )
        if history["stopped"].get("early"):
            for axes in (loss, fvu, dead):
                axes.axvline(history["stopped"]["step"], color="#c33", linestyle=":")
        return svg(figure)


UNDEFINED = {"f1": {"value": None, "low": None, "high": None}}


def group_names(evaluations: Mapping[str, Mapping[str, Any]], group: str) -> list[str]:
    """Of all probes: a type that is not in the texts is there for the probe alone that found it."""
    return list(dict.fromkeys(name for each in evaluations.values() for name in each[group]))


def f1_bars(evaluations: Mapping[str, Mapping[str, Any]], group: str, title: str) -> str:
    """Strict F1 with bootstrap intervals by `group` ("by_language" or "by_type"), a bar a probe."""
    names = group_names(evaluations, group)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(10, 3.1), layout="constrained")
        width = 0.8 / len(evaluations)
        for number, (probe, evaluation) in enumerate(evaluations.items()):
            scores = [evaluation[group].get(name, UNDEFINED)["f1"] for name in names]
            offset = (number - (len(evaluations) - 1) / 2) * width
            _bars(axes, [x + offset for x in range(len(names))], scores, width, probe)
        axes.set(title=title, ylim=(0, 1.02), ylabel="strict span F1")
        axes.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names])
        for label in axes.get_xticklabels():
            label.set_parse_math(False)  # a type may be called "$$"
        axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
        return svg(figure)


def _bars(
    axes: Axes,
    places: Sequence[float],
    scores: Sequence[Mapping[str, float | None]],
    width: float,
    probe: str,
) -> None:
    """Bars with their intervals; a score that is undefined (no such span) leaves a gap."""
    values = [score["value"] or 0.0 for score in scores]
    below = [value - (score["low"] or 0.0) for value, score in zip(values, scores, strict=True)]
    above = [(score["high"] or 0.0) - value for value, score in zip(values, scores, strict=True)]
    errors = [[max(e, 0.0) for e in below], [max(e, 0.0) for e in above]]
    axes.bar(places, values, width * 0.92, label=probe, color=COLOURS.get(probe))
    axes.errorbar(places, values, yerr=errors, fmt="none", ecolor="#333", elinewidth=0.8)


def svg(figure: Figure) -> str:
    """The figure as an <svg> element; closes it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
