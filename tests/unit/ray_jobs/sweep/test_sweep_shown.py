"""The live table and the page of a sweep."""

import xml.dom.minidom
from dataclasses import replace

import pytest

from ray_jobs.sae.config import demo
from ray_jobs.sae.search_space import job_spec
from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.ledger import FAILED, FINISHED, RUNNING, STOPPED, Ledger, TrialRecord
from ray_jobs.sweep.plan import make_plan
from ray_jobs.sweep.report import render_sweep
from ray_jobs.sweep.table import live_table, seconds_left

CONFIG = SweepConfig(
    trials=5,
    space="learning_rate=1e-4:1e-2 n_latents=1024,2048,3072",
    checks=18,
    grace_checks=2,
    rung_spacing=3,
    reduction_factor=3,
)


@pytest.fixture
def plan():
    return make_plan(job_spec(demo(), CONFIG), CONFIG)


@pytest.fixture
def ledger() -> Ledger:
    def trial(number, state, values, seconds=0.0, reason=None):
        point = {"learning_rate": number * 1e-3, "n_latents": 1024}
        reports = [
            {"check": c, "step": 20 * c, "seconds": 2.0 * c, "order": c, "fvu": value}
            for c, value in values.items()
        ]
        return TrialRecord(number, point, state, reports, seconds, 360, 3600, reason)

    return Ledger(
        {},
        [
            trial(1, FINISHED, {2: 0.6, 6: 0.4, 18: 0.2}, 36.0),
            trial(2, STOPPED, {1: 0.9, 2: 0.8}, 4.0),
            trial(3, RUNNING, {1: 0.7, 2: 0.5, 3: 0.45}, 6.0),
            trial(4, FAILED, {}, 1.0, "the loss is not finite <at> step 3"),
            TrialRecord(5, {"learning_rate": 5e-3, "n_latents": 3072}),
        ],
        ended="all trials have ended",
    )


def test_the_live_table_shows_config_rung_metric_cost_and_time(plan, ledger):
    lines = live_table(plan, ledger, 1234.0, concurrent=2).splitlines()
    assert lines[0] == "sweep  3/5 trials ended, 1 running, 1 failed, 0:17 left, $12.34 spent"
    assert lines[1].split() == ["trial", "config", "rung", "fvu", "cost", "ETA"]
    running = ["3", "learning_rate=0.003", "n_latents=1024", "1/2", "0.4500", "$0.06", "0:30"]
    assert lines[2].split() == running
    assert lines[3].split()[-4:] == ["end", "0.2000", "$0.36", "finished"]
    assert len(lines) == 4


def test_the_live_table_says_what_money_there_is(plan, ledger):
    limited = replace(plan, config=replace(CONFIG, max_cost_cents=2000))
    first = live_table(limited, ledger, 1234.0, concurrent=2).splitlines()[0]
    assert first.endswith(", $12.34 spent of $20.00")
    unknown = live_table(plan, ledger, None, concurrent=2).splitlines()[0]
    assert unknown.endswith(", cost unknown (give --price-cents-per-hour)")


def test_the_start_of_a_trial_is_no_part_of_its_pace(plan, ledger):
    """Each took 5 s to start, of which one report alone tells nothing."""
    for trial in ledger.trials:
        trial.seconds += 5.0
        trial.reports = [{**each, "seconds": each["seconds"] + 5.0} for each in trial.reports]
    running = ledger.trials[2]
    running.reports, running.seconds = running.reports[:1], 7.0
    row = live_table(plan, ledger, None, concurrent=2).splitlines()[2].split()
    assert row[0] == "3" and row[-1] == "0:34"  # 340 steps at 0.1 s each


def test_time_left_is_unknown_before_a_trial_has_ended(plan, ledger):
    ledger.trials = ledger.trials[2:3]
    assert seconds_left(plan, ledger, 2) is None


def test_the_page_is_whole_and_says_what_was_stopped(plan, ledger):
    page = render_sweep(plan, ledger, ledger.trials[0], 1234.0, "3600 cents a node and hour")
    assert "Trial 1 is the best: fvu 0.2000" in page
    assert "57% of the steps" in page
    assert "failed: the loss is not finite &lt;at&gt; step 3" in page
    assert "rungs at checks 2, 6 of 18" in page and "$12.34" in page and "3600 cents" in page
    assert "src=" not in page and 'href="http' not in page  # opens without a network
    figures = page.split("<svg")[1:]
    assert len(figures) == 2
    for figure in figures:
        xml.dom.minidom.parseString("<svg" + figure[: figure.index("</svg>")] + "</svg>")
    for text in ("stopped", "learning_rate", "n_latents"):
        assert text in page


def test_the_same_sweep_gives_the_same_page(plan, ledger):
    pages = {render_sweep(plan, ledger, ledger.trials[0], None, "unknown") for _ in range(2)}
    assert len(pages) == 1


def test_the_page_claims_a_plateau_rule_only_where_there_is_one(plan, ledger):
    def stopping(rule: bool) -> bool:
        job = replace(plan.job, has_plateau_rule=rule)
        page = render_sweep(replace(plan, job=job), ledger, ledger.trials[0], None, "unknown")
        return "plateau rule" in page

    assert stopping(True) and not stopping(False)
