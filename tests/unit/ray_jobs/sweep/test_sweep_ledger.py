"""What a sweep writes down, and goes on from."""

import json

import pytest

from data.errors import ConfigError
from data.storage import Store
from ray_jobs.sweep.ledger import (
    FAILED,
    FINISHED,
    RUNNING,
    STOPPED,
    WAITING,
    Ledger,
    LedgerWriter,
    TrialRecord,
    open_ledger,
    start_seconds,
    steps_saved_share,
    whole_seconds,
    worker_seconds_saved_share,
)

IDENTITY = {"space": "k=1,2", "seed": 0, "base": {"sae": {"model": "m"}}}


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(tmp_path, clock) -> LedgerWriter:
    trials = [TrialRecord(n, {"k": n}) for n in (1, 2, 3)]
    return LedgerWriter(Ledger(IDENTITY, trials), Store.open(str(tmp_path)), clock)


def report(check: int, fvu: float) -> dict:
    return {"check": check, "step": 10 * check, "fvu": fvu}


def test_a_killed_sweep_is_read_back_with_what_ran_waiting(book, tmp_path, clock):
    first, second, _ = book.ledger.trials
    book.start(first)
    book.start(second)
    clock.now_s += 5
    assert book.report(first, report(1, 0.5))
    assert book.report(second, report(1, 0.6))
    clock.now_s += 2
    book.end(second, STOPPED)
    book.save()
    again = open_ledger(Store.open(str(tmp_path)), IDENTITY, resume=True)
    assert [trial.state for trial in again.trials] == [WAITING, STOPPED, WAITING]
    assert again.trials[0].reports == [{**report(1, 0.5), "seconds": 5.0, "order": 1}]
    assert again.trials[1].seconds == 7.0
    assert [trial.number for trial in again.open_trials()] == [1, 3]


def test_a_report_that_is_told_again_is_kept_once(book, clock):
    record = book.ledger.trials[0]
    book.start(record)
    assert book.report(record, report(1, 0.5)) and book.report(record, report(2, 0.4))
    book.end(record, WAITING)
    book.start(record)
    assert not book.report(record, report(1, 0.5)) and not book.report(record, report(2, 0.4))
    assert book.report(record, report(3, 0.3))
    assert [r["check"] for r in record.reports] == [1, 2, 3]


def test_time_between_two_workers_is_not_the_trials(book, clock):
    record = book.ledger.trials[0]
    book.start(record)
    clock.now_s += 3
    book.end(record, WAITING)
    clock.now_s += 100
    book.start(record)
    clock.now_s += 4
    book.end(record, FINISHED)
    assert record.seconds == 7.0


@pytest.mark.parametrize(
    ("identity", "resume", "message"),
    [
        (IDENTITY, False, "output_dir: .* has not ended: add --resume"),
        ({**IDENTITY, "space": "k=1,3"}, True, "space: .* started with 'k=1,2', not 'k=1,3'"),
        (
            {**IDENTITY, "base": {"sae": {"model": "n"}}},
            True,
            "model: .* started with 'm', not 'n'",
        ),
    ],
)
def test_another_sweep_in_the_same_place_is_refused(book, tmp_path, identity, resume, message):
    book.save()
    with pytest.raises(ConfigError, match=message):
        open_ledger(Store.open(str(tmp_path)), identity, resume)


def test_the_best_is_whole_where_any_is(book):
    first, second, third = book.ledger.trials
    first.reports, first.state = [report(18, 0.3)], FINISHED
    second.reports, second.state = [report(2, 0.1)], STOPPED
    third.reports, third.state = [report(5, 0.2)], RUNNING
    assert book.ledger.best("fvu", rising=False) is first
    first.state = FAILED
    assert book.ledger.best("fvu", rising=False) is third
    assert Ledger(IDENTITY).best("fvu", rising=False) is None


def test_the_best_of_a_rising_metric_is_the_largest(book):
    for trial, value in zip(book.ledger.trials, (0.1, 0.9, 0.5), strict=True):
        trial.reports, trial.state = [report(18, value)], FINISHED
    assert book.ledger.best("fvu", rising=True).number == 2


def test_savings_count_started_trials_and_their_own_pace():
    def trial(number, steps_at, seconds, planned=100):
        record = TrialRecord(number, {}, planned_steps=planned, seconds=seconds)
        record.reports = [{"check": c, "step": s, "seconds": t} for c, s, t in steps_at]
        return record

    whole = trial(1, [(1, 50, 6.0), (2, 100, 10.0)], 10.0)
    stopped = trial(2, [(1, 10, 4.0), (2, 20, 5.0)], 5.0)  # 0.1 s a step after its start
    waiting = TrialRecord(3, {})
    assert steps_saved_share([whole, stopped, waiting]) == pytest.approx(1 - 120 / 200)
    assert whole_seconds(stopped, 0.0) == pytest.approx(13.0)
    assert worker_seconds_saved_share([whole, stopped, waiting]) == pytest.approx(1 - 15 / 23)
    told_once = trial(4, [(1, 10, 4.0)], 4.5)  # of which 2.5 s as a rule for its start
    assert start_seconds([whole, stopped, told_once]) == pytest.approx(2.5)
    assert whole_seconds(told_once, 2.5) == pytest.approx(4.5 + 90 * 0.15)
    saved = worker_seconds_saved_share([whole, stopped, waiting, told_once])
    assert saved == pytest.approx(1 - 19.5 / 41)
    assert steps_saved_share([waiting]) == worker_seconds_saved_share([waiting]) == 0.0


def test_a_ledger_is_plain_json(book):
    assert Ledger.from_json(json.loads(json.dumps(book.ledger.to_json()))) == book.ledger
