"""An evaluation's rows for a person: a table of text, and `report.html`."""

from collections.abc import Mapping
from html import escape

from ray_jobs.results.report import STYLE, table
from ray_jobs.waltzrl.evaluation.metrics import Interval, repair_line
from ray_jobs.waltzrl.evaluation.report import scores
from ray_jobs.waltzrl.evaluation.rows import TITLES, Rows

SHORT = {
    "ASR": "asr",
    "ORR": "orr",
    "ASR of c0": "asr_c0",
    "ORR of c0": "orr_c0",
    "asked for": "ftr",
    "mended": "dir_repair",
    "judge failed": "judge_errors",
}


def text_table(rows: Rows) -> list[str]:
    """One line a row, in percent; intervals are in the JSON and on the page."""
    width = max(len(title) for title in TITLES.values())
    lines = [" " * width + "".join(f"  {word:>12}" for word in SHORT)]
    for name, measured in rows.items():
        cells = "".join(f"  {_percent(measured[rate]):>12}" for rate in SHORT.values())
        lines.append(f"{TITLES[name]:<{width}}{cells}")
    return lines + said(rows)


def said(rows: Rows) -> list[str]:
    """Whether the trained agents pass, if there are any."""
    return [repair_line(rows["waltzrl"])] if "waltzrl" in rows else []


def render(facts: Mapping[str, str], rows: Rows, note: str) -> str:
    """The page; `facts` as a table above the rates, `note` below them."""
    title = "WaltzRL: evaluation"
    body = [
        f"<h1>{title}</h1>",
        *(f"<p class='said'>{escape(each)}.</p>" for each in said(rows)),
        table([], facts.items()),
        table(["", *(TITLES[name] for name in rows)], scores(rows)),
        f"<p class='note'>{escape(note)} In brackets: 95 %, bootstrap over dialogues.</p>",
    ]
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>{title}</title><style>{STYLE}</style></head>"
        f"<body>{''.join(body)}</body></html>\n"
    )


def _percent(interval: Interval) -> str:
    return "-" if interval["value"] is None else f"{100 * interval['value']:.1f} %"
