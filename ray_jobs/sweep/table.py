"""The live table of a sweep: running trials, the best ended ones, cost and time left."""

from ray_jobs.runtime.progress import clock_time
from ray_jobs.sweep.cost import dollars
from ray_jobs.sweep.ledger import (
    COMPLETE,
    ENDED,
    FAILED,
    RUNNING,
    Ledger,
    TrialRecord,
    start_seconds,
    whole_seconds,
)
from ray_jobs.sweep.plan import Plan
from ray_jobs.sweep.scheduler import rungs
from ray_jobs.sweep.space import shown_point

TOP = 3
"""Ended trials that are shown with the running ones."""


def live_table(plan: Plan, ledger: Ledger, spent_cents: float | None, concurrent: int) -> str:
    """The running trials and the best of the ended ones, under a summary line.

    `spent_cents` is what the nodes have cost, None where that is not known.
    """
    metric = plan.config.metric
    sign = -1 if plan.rising else 1
    running = [trial for trial in ledger.trials if trial.state == RUNNING]
    complete = [trial for trial in ledger.trials if trial.state in COMPLETE]
    complete.sort(key=lambda trial: sign * trial.reports[-1][metric])
    width = max((len(shown_point(t.point)) for t in ledger.trials), default=0)
    header = f"{'trial':>5}  {'config':{width}}  {'rung':>6}  {metric:>10}  {'cost':>8}  {'ETA':>8}"
    start_s = start_seconds(ledger.trials)
    rows = [_row(plan, trial, width, start_s) for trial in [*running, *complete[:TOP]]]
    return "\n".join([_summary(plan, ledger, spent_cents, concurrent), header, *rows])


def _summary(plan: Plan, ledger: Ledger, spent_cents: float | None, concurrent: int) -> str:
    ended = [trial for trial in ledger.trials if trial.state in ENDED]
    failed = sum(trial.state == FAILED for trial in ended)
    running = sum(trial.state == RUNNING for trial in ledger.trials)
    left_s = seconds_left(plan, ledger, concurrent)
    parts = [
        f"sweep  {len(ended)}/{plan.config.trials} trials ended, {running} running",
        f"{failed} failed" if failed else "",
        f"{clock_time(left_s)} left" if left_s is not None else "",
        _money(plan, spent_cents),
    ]
    return ", ".join(part for part in parts if part)


def _money(plan: Plan, spent_cents: float | None) -> str:
    if spent_cents is None:
        return "cost unknown (give --price-cents-per-hour)"
    limit = plan.config.max_cost_cents
    return f"{dollars(spent_cents)} spent" + (f" of {dollars(limit)}" if limit else "")


def seconds_left(plan: Plan, ledger: Ledger, concurrent: int) -> float | None:
    """Of the sweep, if the trials to come take what the ended ones took; None before the first."""
    ended = [trial for trial in ledger.trials if trial.ended and trial.reports]
    if not ended:
        return None
    mean_s = sum(trial.seconds for trial in ended) / len(ended)
    coming = plan.config.trials - sum(trial.ended for trial in ledger.trials)
    spent_s = sum(trial.seconds for trial in ledger.trials if trial.state == RUNNING)
    return max(0.0, coming * mean_s - spent_s) / concurrent


def _row(plan: Plan, trial: TrialRecord, width: int, start_s: float) -> str:
    value = trial.value(plan.config.metric)
    if trial.state == RUNNING:
        eta = clock_time(whole_seconds(trial, start_s) - trial.seconds) if trial.reports else "-"
    else:
        eta = trial.state
    metric, cost = "-" if value is None else f"{value:.4f}", dollars(trial.cost_cents)
    return (
        f"{trial.number:5}  {shown_point(trial.point):{width}}  {shown_rung(plan, trial):>6}  "
        f"{metric:>10}  {cost:>8}  {eta:>8}"
    )


def shown_rung(plan: Plan, trial: TrialRecord) -> str:
    """ "1/2": the rungs it has passed of those there are; "end" at the end of its plan."""
    if trial.check >= plan.config.checks:
        return "end"
    places = rungs(plan.config)
    return f"{sum(trial.check >= place for place in places)}/{len(places)}"
