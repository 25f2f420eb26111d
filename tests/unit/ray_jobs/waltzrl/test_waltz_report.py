"""The page: every row and rate, escaped, without a network."""

from ray_jobs.results.history import StageHistory
from ray_jobs.waltzrl.evaluation.metrics import Outcome, measure
from ray_jobs.waltzrl.evaluation.report import render
from ray_jobs.waltzrl.rollout.dialogue import Labels

FINE, UNSAFE = Labels(False, False), Labels(True, False)


def test_the_page_has_what_was_measured():
    bad = [Outcome("harmful", (UNSAFE,), (FINE,))] * 3 + [Outcome("harmful", (FINE,), (FINE,))]
    good = [Outcome("harmful", (UNSAFE, FINE), (UNSAFE,))] * 3 + [bad[-1]]
    rows = {"untrained": measure(bad, 0), "waltzrl": measure(good, 0)}
    history = StageHistory(2)
    for step in (1, 2):
        history.log(steps=step, reward_feedback=0.5, kl_feedback=0.01)
    history.checks.append({"step": 2, **rows["waltzrl"]})
    page = render({"model": "<b>"}, rows, {"stage_1": history.to_dict()}, "invented & small")
    assert "unsafe answers went from 75.0 % to 0.0 %, over-refusals from - to -" in page
    assert "&lt;b&gt;" in page and "invented &amp; small" in page
    assert "WaltzRL, both agents trained" in page and "two untrained agents" in page
    assert "1.000 (1.000-1.000)" in page  # repaired
    assert "repair: passed, 100.0% (100.0% to 100.0%) of bad first answers repaired" in page
    assert "drift per token" not in page  # no row has it
    assert page.count("<svg") == 1 and "Stage 1" in page
    assert "<link" not in page and "<script" not in page and "src=" not in page
    alone = render({}, {}, {"stage_1": history.to_dict()}, "")
    assert "Stage 1 alone" in alone and "Held-out prompts" not in alone and "<svg" in alone
