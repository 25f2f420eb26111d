"""How what Ray Tune tells becomes the book of a sweep."""

from types import SimpleNamespace
from typing import Any

import pytest

from data.errors import StorageError
from data.storage import Store
from ray_jobs.sweep.callback import SweepCallback, SweepStopper
from ray_jobs.sweep.cost import NodeMeter, Rate
from ray_jobs.sweep.ledger import LEDGER, Ledger, LedgerWriter, TrialRecord
from ray_jobs.sweep.results import Folders
from ray_jobs.sweep.trial import FAILURE

CHECKS = 9


@pytest.fixture
def book(tmp_path) -> LedgerWriter:
    trials = [TrialRecord(n, {"k": n}) for n in (1, 2)]
    return LedgerWriter(Ledger({"a": 1}, trials), Store.open(str(tmp_path)), lambda: 0.0)


@pytest.fixture
def ended() -> list[int]:
    return []


@pytest.fixture
def callback(book, ended) -> SweepCallback:
    prices = {"10.0.0.1": 150.0}
    made = SweepCallback(book, CHECKS, ("fvu", "f1"), price_at=prices.get, show=lambda: None)
    made.on_end = lambda: ended.append(1)
    return made


def trial(trial_id: str, k: int) -> Any:
    return SimpleNamespace(trial_id=trial_id, config={"point": {"k": k}})


def result(check: int, **more: Any) -> dict[str, Any]:
    told = {"check": check, "step": 10 * check, "planned_steps": 90, "fvu": 1 / check}
    return {**told, "pid": 7, "node_ip": "10.0.0.1", "trial_id": "x", **more}


def test_only_what_the_job_reports_is_kept(callback, book):
    callback.on_trial_start(trial("a", 1))
    callback.on_trial_result(trial("a", 1), result(1))
    (report,) = book.ledger.trials[0].reports
    assert report == {"check": 1, "step": 10, "fvu": 1.0, "seconds": 0.0, "order": 1}
    assert book.ledger.trials[0].planned_steps == 90


def test_a_trial_costs_what_its_node_costs_even_when_that_has_gone(callback, book):
    callback.on_trial_start(trial("a", 1))
    callback.on_trial_result(trial("a", 1), result(1))
    callback.on_trial_result(trial("a", 1), result(2, node_ip="10.0.0.9"))
    record = book.ledger.trials[0]
    record.seconds = 1800.0
    assert record.cost_cents == 75.0 and book.ledger.trials[1].cost_cents is None


@pytest.mark.parametrize(
    ("last", "state"),
    [
        (result(CHECKS), "finished"),
        (result(5), "plateau"),
        (result(2, done=True), "stopped"),
        ({"check": 0, "fvu": 1e9, FAILURE: "the loss is not finite"}, "failed"),
    ],
)
def test_how_a_trial_ends(callback, book, ended, last, state):
    callback.on_trial_start(trial("a", 1))
    callback.on_trial_result(trial("a", 1), result(1))
    callback.on_trial_result(trial("a", 1), last)
    callback.on_trial_complete(trial("a", 1))
    record = book.ledger.trials[0]
    assert record.state == state and ended == [1]
    assert record.reason == ("the loss is not finite" if state == "failed" else None)


def test_a_trial_that_never_reports_has_failed(callback, book):
    callback.on_trial_start(trial("a", 1))
    callback.on_trial_complete(trial("a", 1))
    assert book.ledger.trials[0].state == "failed"


def test_trials_find_their_records_and_new_points_get_one(callback, book):
    assert callback.record_of(trial("a", 2)).number == 2
    assert callback.record_of(trial("a", 2)).number == 2
    assert callback.record_of(trial("b", 2)).number == 3  # the same point once more
    assert callback.record_of(trial("c", 5)).number == 4
    assert len(book.ledger.trials) == 4


def test_a_book_that_can_not_be_kept_ends_the_sweep(callback, book, tmp_path):
    ending = SweepStopper(NodeMeter(Store.open(str(tmp_path)), lambda: Rate(0.0)), callback)
    callback.on_trial_start(trial("a", 1))
    assert not ending.stop_all()
    (tmp_path / LEDGER).mkdir()  # nothing can be written under this name
    book._store = Store.open(str(tmp_path), retry_s=0.0)
    callback.on_trial_result(trial("a", 1), result(1))
    assert isinstance(callback.problem, StorageError) and ending.stop_all()


def test_losers_are_removed_and_what_may_still_win_stays(tmp_path):
    store = Store.open(str(tmp_path))
    plan = SimpleNamespace(config=SimpleNamespace(metric="fvu"), rising=False)
    trials = [TrialRecord(n, {"k": n}) for n in (1, 2, 3, 4, 5)]
    states = ("finished", "stopped", "running", "finished", "stopped")
    for record, state, fvu in zip(trials, states, (0.5, 0.9, 0.8, 0.4, 0.7), strict=True):
        record.state, record.reports = state, [{"check": 9, "step": 90, "fvu": fvu}]
    folders = Folders(plan, Ledger({}, trials), store)
    for record in trials:
        folders.of(record).write_bytes("sae_final.pt", b"weights")

    def left() -> list[int]:
        return [r.number for r in trials if folders.of(r).exists("sae_final.pt")]

    folders.remove_losers(lambda record: record.number == 5)
    assert left() == [3, 4, 5]
    folders.of(trials[1]).write_bytes("sae_final.pt", b"late")  # its worker was writing still
    folders.remove_losers(lambda record: False)
    assert left() == [2, 3, 4]
    folders.remove_all_losers()
    assert left() == [3, 4]
