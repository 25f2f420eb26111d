"""`sweep.html`: what was tried, what was stopped where, what won, and what that cost."""

from html import escape

from ray_jobs.results.report import page, table
from ray_jobs.runtime.progress import clock_time
from ray_jobs.sweep.cost import dollars
from ray_jobs.sweep.figures import learning_curves, parallel_coordinates
from ray_jobs.sweep.ledger import Ledger, TrialRecord
from ray_jobs.sweep.plan import Plan
from ray_jobs.sweep.results import states, summary
from ray_jobs.sweep.scheduler import rungs
from ray_jobs.sweep.space import shown_point
from ray_jobs.sweep.table import shown_rung


def render_page(
    plan: Plan,
    ledger: Ledger,
    best: TrialRecord,
    spent_cents: float | None,
    price_source: str,
) -> str:
    """The page, whole in itself; `spent_cents` is None without prices, and `price_source` says
    whose they are."""
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
    sections = [
        f"<h1>Sweep of {escape(plan.job.name)}</h1><p class='said'>{escape(verdict)}</p>",
        table([], facts.items()),
        "<h2>Learning curves</h2>",
        learning_curves(ledger.trials, metric, best, rungs(plan.config)),
        "<h2>What was tried</h2>",
        parallel_coordinates(ledger.trials, metric, plan.space, plan.rising),
        "<p class='note'>The darker the line, the better the trial; a stopped one counts with "
        "its last check.</p>",
        "<h2>Trials</h2>",
        table(
            ["trial", "config", "ended", "rungs", metric, "steps", "worker time", "cost"],
            [_row(plan, trial) for trial in _ranked(plan, ledger)],
        ),
        "<p class='note'>The worker time saved is estimated from each trial's own pace. A "
        "trial's cost is its share of a node; the nodes' cost has the time in which they idled "
        "or made the data ready too.</p>",
    ]
    return page(f"Sweep of {plan.job.name}", sections)


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
