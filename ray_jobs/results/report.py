"""`report.html` of the pipeline: the SAE's training, and the PII found with and without it."""

from collections.abc import Callable, Mapping
from typing import Any

from ray_jobs.results.figures import f1_bars, group_names, training_curves
from ray_jobs.results.page import Section, Table, render_page

Evaluations = Mapping[str, Mapping[str, Any]]
"""`Evaluation.to_json()` by probe ("latents", "raw")."""

Interval = Mapping[str, float | None]
"""A score with its bootstrap interval: "value", "low", "high"; None where it is undefined."""


def render(
    title: str,
    verdict: str,
    facts: Mapping[str, str],
    history: Mapping[str, Any],
    evaluations: Evaluations,
) -> str:
    """The page.

    Args:
        verdict: what came out, in one or two sentences, whoever won.
        facts: what the run was made of (host, data, steps), shown as a table.
        history: `training_history.json`.
        evaluations: empty for a training alone.
    """
    training = Section(
        "Training of the sparse autoencoder",
        [training_curves(history)],
        note=f"Ended: {_ended(history['stopped'])}",
    )
    sections = [training, _found_pii(evaluations)] if evaluations else [training]
    return render_page(title, [verdict], facts, sections)


def _found_pii(evaluations: Evaluations) -> Section:
    return Section(
        "Personal data found in unseen texts",
        [
            f1_bars(evaluations, "by_language", "By language"),
            f1_bars(evaluations, "by_type", "By type"),
        ],
        scores_table(evaluations),
        "Strict: start, end and type are exact. Intervals: 95 %, bootstrap over documents. Both "
        "probes read, beside their features, the letter case and spacing of a token, which an "
        "uncased host drops.",
    )


def scores_table(evaluations: Evaluations) -> Table:
    """A row a score, a column a probe."""
    rows = [["strict F1, all", *_cells(evaluations, lambda e: e["strict"]["f1"])]]
    for group, word in (("by_language", "language"), ("by_type", "type")):
        for name in group_names(evaluations, group):
            cells = _cells(evaluations, lambda e, g=group, n=name: e[g].get(n, {}).get("f1"))
            rows.append([f"strict F1, {word} {name}", *cells])
    for field, name in (
        ("character_recall", "characters found, any type"),
        ("false_positives_per_1000_tokens", "false alarms per 1000 tokens of clean prose"),
    ):
        rows.append([name, *_cells(evaluations, lambda e, f=field: e[f])])
    return Table(["", *evaluations], rows)


def _cells(
    evaluations: Evaluations, score: Callable[[Mapping[str, Any]], Interval | None]
) -> list[str]:
    return [shown(score(evaluation)) for evaluation in evaluations.values()]


def shown(interval: Interval | None) -> str:
    """ "0.912 (0.900-0.920)", or a dash where it is undefined."""
    if interval is None or interval["value"] is None:
        return "-"
    return f"{interval['value']:.3f} ({interval['low']:.3f}-{interval['high']:.3f})"


def _ended(stopped: Mapping[str, Any]) -> str:
    saved = f"; {stopped['steps_saved_share']:.0%} of the plan saved" if stopped["early"] else ""
    return f"step {stopped['step']} of {stopped['planned_steps']}: {stopped['reason']}{saved}"
