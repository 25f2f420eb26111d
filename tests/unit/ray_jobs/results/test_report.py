"""The report shows what came out, whoever won, and needs no network."""

import re

import pytest
from markupsafe import escape

from data.storage import Store
from ray_jobs.pipeline import table
from ray_jobs.pipeline_job import verdict
from ray_jobs.results.history import TrainingHistory
from ray_jobs.results.report import render, shown

HISTORY = TrainingHistory(
    planned_steps=40,
    steps=[10, 20],
    losses=[1.0, 0.5],
    fvu=[0.9, 0.4],
    dead_share=[0.0, 0.25],
    learning_rates=[1e-3, 1e-3],
    times=[1.0, 2.0],
    checks=[{"step": 20, "fvu": 0.41, "loss": 0.5}],
)
HISTORY.finish(20, "plateau: <fvu>", early=True)


def score(value: float | None, low: float | None, high: float | None) -> dict:
    return {"f1": {"value": value, "low": low, "high": high}}


def evaluation(value: float) -> dict:
    bounds = score(value, value - 0.01, value + 0.01)
    return {
        "strict": bounds,
        "by_language": {"en": bounds},
        "by_type": {"IP_ADDRESS": bounds, "NEVER_SEEN": score(None, None, None)},
        "character_recall": bounds["f1"],
        "false_positives_per_1000_tokens": {"value": 0.0, "low": 0.0, "high": 0.0},
    }


def test_the_page_stands_alone_and_shows_the_scores():
    evaluations = {"latents": evaluation(0.8), "raw": evaluation(0.9)}
    facts = {"Host <model>": "a & b"}
    page = render("Title", "raw won", facts, HISTORY.to_dict(), evaluations)
    assert page.count("<svg") == 3
    assert "0.800 (0.790-0.810)" in page and "Host &lt;model&gt;" in page
    assert "step 20 of 40: plateau: &lt;fvu&gt;; 50% of the plan saved" in page
    assert not re.search(r"""(src|href)=["']https?:""", page) and "<script" not in page


@pytest.mark.parametrize("name", ["$$", "$A$", "US$ 5 $", "a_b$", "\\x", "<b>"])
def test_a_type_may_be_called_as_it_likes(name):
    strange = evaluation(0.8)
    strange["by_type"][name] = score(0.1, 0.0, 0.2)
    page = render("T", "v", {}, HISTORY.to_dict(), {"latents": strange, "raw": evaluation(0.9)})
    assert f"strict F1, type {escape(name)}" in page


def test_the_verdict_says_who_won():
    low, high = evaluation(0.8), evaluation(0.9)
    assert "raw activations beat the latents" in verdict({"latents": low, "raw": high})
    assert "latents beat the raw activations" in verdict({"latents": high, "raw": low})
    assert "neither beats" in verdict({"latents": low, "raw": low})


def test_a_type_that_one_probe_alone_found_is_shown():
    latents, raw = evaluation(0.8), evaluation(0.9)
    latents["by_type"]["USERNAME"] = score(0.0, 0.0, 0.0)
    raw["by_type"]["IBAN"] = score(0.1, 0.0, 0.2)
    page = render("T", "v", {}, HISTORY.to_dict(), {"latents": latents, "raw": raw})
    assert "strict F1, type USERNAME" in page and "strict F1, type IBAN" in page


def test_test_texts_without_a_span_have_a_verdict_and_a_table(tmp_path):
    nothing = evaluation(0.0) | {"strict": score(None, None, None)}
    assert "nothing to compare" in verdict({"latents": nothing, "raw": nothing})
    f1 = {"overall": None, "by_language": {"en": None}}
    result = {"f1": {"latents": f1, "raw": f1}, "fvu": 0.1, "dead_share": 0.0, "steps": 1}
    shown_table = table(result | {"stopped_early": False}, Store.open(str(tmp_path)))
    assert re.search(r"^latents +- +-$", shown_table, re.M)


def test_an_undefined_score_is_a_dash():
    assert shown({"value": None, "low": None, "high": None}) == "-"
