"""`report.html`: one page a person looks at first; opens from a disk without a network."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ray_jobs.results.figures import f1_bars, group_names, training_curves

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff; }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; margin: .6rem 0 } td, th { padding: .2rem .9rem .2rem 0;
       text-align: left; font-variant-numeric: tabular-nums; border-bottom: 1px solid #ddd }
svg { max-width: 100%; height: auto } .note { color: #666 } .said { font-size: 1.05rem }
"""

Rows = Sequence[Sequence[str]]


def render(
    title: str,
    verdict: str,
    facts: Mapping[str, str],
    history: Mapping[str, Any],
    evaluations: Mapping[str, Mapping[str, Any]],
) -> str:
    """The page.

    Args:
        verdict: what came out, in one or two sentences, whoever won.
        facts: what the run was made of (host, data, steps), shown as a table.
        history: `training_history.json`.
        evaluations: `Evaluation.to_json()` by probe ("latents", "raw").
    """
    sections = [
        f"<h1>{escape(title)}</h1><p class='said'>{escape(verdict)}</p>",
        table([], facts.items()),
        "<h2>Training of the sparse autoencoder</h2>",
        training_curves(history),
        f"<p class='note'>Ended: {escape(_ended(history['stopped']))}</p>",
    ]
    if evaluations:
        sections += [
            "<h2>Personal data found in unseen texts</h2>",
            f1_bars(evaluations, "by_language", "By language"),
            f1_bars(evaluations, "by_type", "By type"),
            table(*scores_table(evaluations)),
            "<p class='note'>Strict: start, end and type are exact. Intervals: 95 %, bootstrap "
            "over documents. Both probes read, beside their features, the letter case and "
            "spacing of a token, which an uncased host drops.</p>",
        ]
    return page(title, sections)


def page(title: str, sections: Sequence[str]) -> str:
    """A whole HTML document of sections that are HTML already."""
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body>{''.join(sections)}</body></html>\n"
    )


def scores_table(
    evaluations: Mapping[str, Mapping[str, Any]],
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a row a score, a column a probe."""
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
    return ["", *evaluations], rows


def _cells(evaluations: Mapping[str, Mapping[str, Any]], score: Any) -> list[str]:
    return [shown(score(evaluation)) for evaluation in evaluations.values()]


def shown(interval: Mapping[str, float | None] | None) -> str:
    """ "0.912 (0.90-0.92)", or a dash where it is undefined."""
    if interval is None or interval["value"] is None:
        return "-"
    return f"{interval['value']:.3f} ({interval['low']:.3f}-{interval['high']:.3f})"


def table(header: Sequence[str], rows: Any) -> str:
    """An HTML table; every cell is escaped."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _ended(stopped: Mapping[str, Any]) -> str:
    saved = f"; {stopped['steps_saved_share']:.0%} of the plan saved" if stopped["early"] else ""
    return f"step {stopped['step']} of {stopped['planned_steps']}: {stopped['reason']}{saved}"
