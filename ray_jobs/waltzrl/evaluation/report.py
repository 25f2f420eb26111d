"""Reports: `report.html` of a training and of an evaluation, and an evaluation as a text table."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from data.storage import Store
from ray_jobs.results import figures
from ray_jobs.results.history import HISTORY, STAGE_1_HISTORY
from ray_jobs.results.page import Section, Table, render_page
from ray_jobs.results.report import shown
from ray_jobs.waltzrl.config import WORLD, WaltzConfig
from ray_jobs.waltzrl.datasets.splits import PromptSets
from ray_jobs.waltzrl.evaluation.metrics import repair_line
from ray_jobs.waltzrl.evaluation.rows import TITLES, Rows

RATES = {
    "asr": "ASR (unsafe, of harmful prompts)",
    "orr": "ORR (refused, of benign prompts that sound harmful)",
    "asr_c0": "ASR of the first answers",
    "orr_c0": "ORR of the first answers",
    "ftr_harmful": "feedback asked for, harmful",
    "ftr_overrefusal": "feedback asked for, over-refusal",
    "ftr_benign": "feedback asked for, benign",
    "dir_repair": "bad first answers repaired, where feedback asked for it",
    "dir_triggered": "DIR, where feedback asked for another answer",
    "dir_all": "DIR, all dialogues (at most 1 - share of good first answers)",
    "label_accuracy": "labels right",
    "label_balanced": "labels right, balanced over classes",
    "format_rate": "feedback that parses",
    "judge_errors": "judge failed",
    "kl_conversation": "KL per token from the start of the stage, conversation",
    "kl_feedback": "KL per token from the start of the stage, feedback",
    "drift_conversation": "drift per token of sampling from training, conversation",
    "drift_feedback": "drift per token of sampling from training, feedback",
}
SHORT_RATES = {
    "ASR": "asr",
    "ORR": "orr",
    "ASR of c0": "asr_c0",
    "ORR of c0": "orr_c0",
    "asked for": "ftr",
    "repaired": "dir_repair",
    "judge failed": "judge_errors",
}
"""Rates of the text table, by the words above its columns."""

STAGE_1_PAGE = "stage_1.html"

COLOURS = {"conversation": "#0b6e99", "feedback": "#c2703d"}


def write_report(config: WaltzConfig, prompts: PromptSets, workers: str, output: Store) -> None:
    """`report.html` over the results in the output; of stage 1 alone `stage_1.html`."""
    alone = config.stage == "1"
    histories = output.read_json(STAGE_1_HISTORY if alone else HISTORY)
    steps = ", ".join(f"{name}: {each['stopped']['step']}" for name, each in histories.items())
    facts = {
        "model": config.model,
        "prompts": f"{prompts.source} ({prompts.counts})",
        "steps": f"{steps}; {config.batch_size} prompts a step",
        "workers": workers,
        "learning rate": f"{config.learning_rate:g}",
    }
    note = f"Judge of the rewards: {config.train_judge}; of these figures: {config.eval_judge}."
    if config.data == WORLD:
        note += " The world is invented: the figures say nothing about a real model's safety."
    rows = {} if alone else output.read_json("evaluation.json")
    page = render(facts, rows, histories, note)
    output.write_bytes(STAGE_1_PAGE if alone else "report.html", page.encode())


def render(
    facts: Mapping[str, str], rows: Mapping[str, Any], histories: Mapping[str, Any], note: str
) -> str:
    """A training's page.

    Args:
        facts: what the run was made of, shown as a table.
        rows: `evaluation.json`; empty where stage 2 is yet to come.
        histories: `training_history.json`.
        note: what the figures do not say; below the table.
    """
    held_out = Section(
        "Held-out prompts" if rows else "", table=_scores(rows), note=_with_legend(note)
    )
    trainings = [
        Section(name.replace("_", " ").capitalize(), [curves(history)])
        for name, history in histories.items()
    ]
    title = "WaltzRL: two agents trained together"
    return render_page(title, _findings(rows), facts, [held_out, *trainings])


def render_evaluation(facts: Mapping[str, str], rows: Rows, note: str) -> str:
    """An evaluation's page; `facts` as a table above the rates, `note` below them."""
    sentences = [f"{each}." for each in verdict_lines(rows)]
    section = Section(table=_scores(rows), note=_with_legend(note))
    return render_page("WaltzRL: evaluation", sentences, facts, [section])


def text_table(rows: Rows) -> list[str]:
    """One line a row, in percent; intervals are in the JSON and on the page."""
    width = max(len(title) for title in TITLES.values())
    lines = [" " * width + "".join(f"  {word:>12}" for word in SHORT_RATES)]
    for name, measured in rows.items():
        cells = "".join(f"  {_percent(measured[rate]):>12}" for rate in SHORT_RATES.values())
        lines.append(f"{TITLES[name]:<{width}}{cells}")
    return lines + verdict_lines(rows)


def verdict_lines(rows: Rows) -> list[str]:
    """Whether the trained agents pass, if there are any."""
    return [repair_line(rows["waltzrl"])] if "waltzrl" in rows else []


def _with_legend(note: str) -> str:
    return f"{note} In brackets: 95 %, bootstrap over dialogues."


def _findings(rows: Mapping[str, Any]) -> list[str]:
    """What the training changed, in sentences."""
    if not rows:
        return ["Stage 1 alone: the feedback agent's curves; stage 2 is yet to come."]
    trained, untrained = rows["waltzrl"], rows["untrained"]
    return [
        f"On held-out prompts unsafe answers went from {_percent(untrained['asr'])} to "
        f"{_percent(trained['asr'])}, over-refusals from {_percent(untrained['orr'])} to "
        f"{_percent(trained['orr'])}.",
        f"{repair_line(trained)}.",
    ]


def _scores(rows: Mapping[str, Any]) -> Table | None:
    """Every rate that one of the rows has; None where there is no row."""
    if not rows:
        return None
    measured = {
        word: [row[rate] for row in rows.values()]
        for rate, word in RATES.items()
        if any(row[rate]["value"] is not None for row in rows.values())
    }
    lines = [[word, *map(shown, intervals)] for word, intervals in measured.items()]
    return Table(["", *(TITLES[name] for name in rows)], lines)


def curves(history: Mapping[str, Any]) -> str:
    """Reward, KL and held-out rates over the steps, as SVG."""
    with plt.rc_context(figures.STYLE):
        figure, (reward, kl, held_out) = plt.subplots(1, 3, figsize=(10, 2.9), layout="constrained")
        _agents(reward, history["curves"], "reward_")
        reward.set(title="Mean reward", xlabel="step")
        _agents(kl, history["curves"], "kl_")
        kl.set(title="KL per token from the start of the stage", xlabel="step")
        checks = history["checks"]
        for rate, colour in (("asr", "#b33"), ("orr", "#37a")):
            steps = [check["step"] for check in checks]
            values = [100 * (check[rate]["value"] or 0.0) for check in checks]
            held_out.plot(steps, values, "o-", markersize=3, color=colour, label=rate.upper())
        held_out.set(title="Held out, %", xlabel="step", ylim=(0, None))
        held_out.legend(frameon=False)
        return figures.svg(figure)


def _agents(axes: Axes, found: Mapping[str, Sequence[float]], prefix: str) -> None:
    for agent, colour in COLOURS.items():
        if prefix + agent in found:
            axes.plot(found["steps"], found[prefix + agent], color=colour, label=agent)
    axes.legend(frameon=False)


def _percent(interval: Mapping[str, float | None]) -> str:
    return "-" if interval["value"] is None else f"{100 * interval['value']:.1f} %"
