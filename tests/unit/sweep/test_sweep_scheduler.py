"""ASHA's rungs, and that an interrupted sweep decides as an undisturbed one."""

import random
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.ledger import TrialRecord
from ray_jobs.sweep.scheduler import make_scheduler, rungs

CONFIG = SweepConfig(space="k=1,2", checks=18, grace_checks=2, reduction_factor=3)


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
        before = [record for record in records if record.reports]
        self.scheduler = make_scheduler(CONFIG, False, lambda t: by_id[t.trial_id], before)
        for record in records:
            if not record.ended:
                self.scheduler.on_trial_add(None, self.trial(record))

    def trial(self, record: TrialRecord) -> SimpleNamespace:
        return SimpleNamespace(trial_id=f"{self.prefix}{record.number}")

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
    assert {r.check for r in whole} <= {2, 6, 18}
    assert sum(r.check == 2 for r in whole) >= 3  # the first rung does stop some


def test_what_a_trial_tells_again_after_a_restart_does_not_stop_it():
    records = [TrialRecord(n, {}) for n in range(4)]
    for number, record in enumerate(records):
        record.reports = [{"check": 2, "fvu": number / 10, "order": 4 - number}]
    records[3].reports[0]["order"] = 0  # it came first, so it went on; now it would be last
    run = Run(records, "b")
    again = run.scheduler.on_trial_result(None, run.trial(records[3]), records[3].reports[0])
    assert again == TrialScheduler.CONTINUE


def test_the_last_check_is_no_rung():
    assert rungs(CONFIG) == [2, 6]
    records = [TrialRecord(n, {}) for n in range(3)]
    run = Run(records, "a")
    for number in range(3):
        report = {"check": 18, "fvu": number, "order": number}
        for check in (2, 6):
            best = {"check": check, "fvu": -number, "order": 0}
            run.scheduler.on_trial_result(None, run.trial(records[number]), best)
        decision = run.scheduler.on_trial_result(None, run.trial(records[number]), report)
        assert decision == TrialScheduler.CONTINUE
