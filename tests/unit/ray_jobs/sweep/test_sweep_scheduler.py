"""ASHA's rungs, and that an interrupted sweep decides as an undisturbed one."""

import random
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.ledger import STOPPED, WAITING, TrialRecord
from ray_jobs.sweep.scheduler import make_scheduler, rungs

CONFIG = SweepConfig(
    trials=12, space="k=1,2", checks=18, grace_checks=2, rung_spacing=3, reduction_factor=3
)


def events(n_trials: int, seed: int) -> list[tuple[int, dict]]:
    """(trial, report) of all trials, interleaved at random."""
    rng = random.Random(seed)
    queues = [
        [{"check": c, "fvu": rng.random() + 1 / c, "done": False} for c in range(1, 19)]
        for _ in range(n_trials)
    ]
    found = []
    while any(queues):
        number = rng.choice([n for n, queue in enumerate(queues) if queue])
        found.append((number, queues[number].pop(0)))
    return found


class Run:
    """Feeds events to a scheduler as Ray Tune does; the trials' ids are new in every run."""

    def __init__(self, records: list[TrialRecord], prefix: str) -> None:
        self.records = records
        self.prefix = prefix
        by_id = {f"{prefix}{record.number}": record for record in records}
        scheduler = make_scheduler(CONFIG, False, lambda t: by_id[t.trial_id], records)
        assert scheduler is not None
        self.scheduler = scheduler
        for record in records:
            if not record.ended:
                self.scheduler.on_trial_add(None, self.trial(record))

    def trial(self, record: TrialRecord) -> SimpleNamespace:
        return SimpleNamespace(trial_id=f"{self.prefix}{record.number}")

    def report(self, number: int, check: int, fvu: float) -> str:
        """The verdict on a report."""
        report = {"check": check, "fvu": fvu}
        return self.scheduler.on_trial_result(None, self.trial(self.records[number]), report)

    def feed(self, parts: list[tuple[int, dict]], first_order: int) -> None:
        for order, (number, report) in enumerate(parts, start=first_order):
            record = self.records[number]
            if record.ended:
                continue
            decision = self.scheduler.on_trial_result(None, self.trial(record), report)
            record.reports.append({**report, "order": order})
            if decision == TrialScheduler.STOP:
                record.state = "stopped"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("cut", [0, 40, 120])
def test_an_interrupted_sweep_decides_as_an_undisturbed_one(seed, cut):
    parts = events(12, seed)
    whole = [TrialRecord(n, {}) for n in range(12)]
    Run(whole, "a").feed(parts, 0)
    split = [TrialRecord(n, {}) for n in range(12)]
    Run(split, "a").feed(parts[:cut], 0)
    Run(split, "b").feed(parts[cut:], cut)
    assert [r.state for r in split] == [r.state for r in whole]
    assert [r.check for r in split] == [r.check for r in whole]
    assert min(r.check for r in whole) == 2 and max(r.check for r in whole) == 18
    assert sum(r.check == 2 for r in whole) >= 3  # the first rung does stop some


def told(values: list[float], check: int = 2) -> list[TrialRecord]:
    """Trials that have all reported at a check, in order."""
    return [
        TrialRecord(n, {}, reports=[{"check": check, "fvu": value, "order": n}])
        for n, value in enumerate(values)
    ]


def test_a_trial_that_passed_among_few_is_stopped_once_more_have_come():
    run = Run(told([0.5]), "a")
    assert run.report(0, 3, 0.45) == TrialScheduler.CONTINUE
    run = Run(told([0.5, 0.4]), "a")
    assert run.report(1, 3, 0.35) == TrialScheduler.CONTINUE
    assert run.report(0, 3, 0.01) == TrialScheduler.STOP  # for its place at the rung, not now
    run = Run(told([0.5, 0.4, 0.6, 0.7]), "a")  # two of four: the second is among the best third
    assert run.report(0, 3, 0.45) == TrialScheduler.CONTINUE


def test_the_end_of_a_trial_is_no_verdict():
    run = Run(told([0.5, 0.4]), "a")
    assert run.report(0, 18, 0.3) == TrialScheduler.CONTINUE
    assert rungs(CONFIG) == [2, 6]


def test_a_trial_that_was_stopped_too_early_is_called_back():
    records = told([0.4, 0.5, 0.6, 0.7])
    records[1].state = records[2].state = records[3].state = STOPPED
    Run(records, "a").scheduler.call_back(records)
    assert [r.state for r in records] == [WAITING, WAITING, STOPPED, STOPPED]


def test_only_those_are_kept_that_may_be_called_back():
    """Of twelve trials four go on at most: whoever has four before it never does."""
    records = told([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    for record in records:
        record.state = STOPPED
    scheduler = Run(records, "a").scheduler
    assert [scheduler.may_return(r) for r in records] == [True] * 4 + [False] * 2


@pytest.mark.parametrize("seed", range(5))
def test_in_the_end_the_best_have_gone_on_whatever_the_order(seed):
    """As synchronous halving would: four of twelve pass the first rung, two of four the next."""
    values = random.Random(seed).sample(range(100), 12)
    records = [TrialRecord(n, {}) for n in range(12)]
    for _ in range(4):
        run = Run(records, "a")
        run.scheduler.call_back(records)
        order = 12 * 20 * 4
        for record in records:
            for check in range(record.check + 1, 19) if not record.ended else ():
                report = {"check": check, "fvu": values[record.number] + 1 / check, "order": order}
                run.feed([(record.number, report)], order)
                order += 1
    best = sorted(range(12), key=lambda n: values[n])
    reached = {n for n in range(12) if records[n].check >= 6}
    assert set(best[:4]) <= reached
    assert records[best[0]].check == records[best[1]].check == 18


def test_rungs_may_lie_closer_than_the_share_that_goes_on():
    config = SweepConfig(space="k=1,2")
    assert rungs(config) == [2, 4, 8]
    scheduler = make_scheduler(config, False, lambda t: TrialRecord(0, {}), [])
    assert scheduler is not None
    assert sorted(place for place, _ in scheduler._bracket._rungs) == [2, 4, 8]
