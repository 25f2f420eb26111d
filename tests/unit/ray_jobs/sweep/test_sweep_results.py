"""What is left of a sweep that ended before its trials did."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from data.errors import JobError
from data.storage import Store
from ray_jobs.sweep.ledger import FAILED, FINISHED, WAITING, Ledger, TrialRecord
from ray_jobs.sweep.results import Folders, leave_best

PLAN: Any = SimpleNamespace(config=SimpleNamespace(metric="fvu"), rising=False)


class Sweep:
    """Interrupted trials with an FVU at each of their checks, and the check of each one's newest
    checkpoint (None for no checkpoint)."""

    def __init__(self, store: Store, fvus: list[list[float]], saved: list[int | None]) -> None:
        self.store = store
        trials = [TrialRecord(n, {"k": n}, WAITING) for n in range(1, len(fvus) + 1)]
        for trial, values in zip(trials, fvus, strict=True):
            trial.reports = [
                {"check": check, "step": 10 * check, "fvu": fvu}
                for check, fvu in enumerate(values, start=1)
            ]
        self.ledger = Ledger({}, trials, ended="the money is spent")
        self.saved = dict(zip((trial.number for trial in trials), saved, strict=True))
        self.finished: list[int] = []

    def finish(self, point: dict[str, Any], folder: Store) -> int | None:
        self.finished.append(point["k"])
        if self.saved[point["k"]] is not None:
            folder.write_json("training_history.json", point)
        return self.saved[point["k"]]

    def leave(self) -> TrialRecord:
        folders = Folders(PLAN, self.ledger, self.store.child("trials"))
        return leave_best(PLAN, self.ledger, folders, self.store, self.finish, lambda p: p)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.open(str(tmp_path))


def left(store: Store) -> dict[str, Any]:
    return json.loads(store.read_bytes("best/training_history.json"))


def test_without_the_best_ones_checkpoint_the_next_is_left(store):
    sweep = Sweep(store, [[0.5], [0.9, 0.2], [0.8, 0.4]], [None, None, 2])
    best = sweep.leave()
    assert best.number == 3 and left(store) == {"k": 3}
    assert sweep.finished == [2, 3]
    # A caller that looks again finds the same one.
    assert sweep.ledger.best("fvu", rising=False) is best and best.value("fvu") == 0.4


def test_the_best_is_the_best_at_its_checkpoint(store):
    sweep = Sweep(store, [[0.9, 0.5, 0.1], [0.9, 0.3]], [2, 2])
    assert sweep.leave().number == 2
    assert sweep.ledger.trials[0].value("fvu") == 0.5
    again = Sweep(store, [[0.9, 0.5, 0.1], [0.9, 0.6]], [2, 2])
    assert again.leave().number == 1 and again.finished == [1]


def test_a_whole_trial_goes_before_all_that_was_interrupted(store):
    sweep = Sweep(store, [[0.9, 0.8], [0.1]], [2, 1])
    sweep.ledger.trials[0].state = FINISHED
    assert sweep.leave().number == 1 and sweep.finished == []


def test_without_any_checkpoint_the_mend_is_said(store):
    sweep = Sweep(store, [[0.5], [0.2]], [None, None])
    with pytest.raises(JobError, match="before a trial had a result .* larger --max-cost-cents"):
        sweep.leave()
    failed = Sweep(store, [[]], [None])
    failed.ledger.trials[0].state, failed.ledger.trials[0].reason = FAILED, "the loss is not finite"
    with pytest.raises(JobError, match="the loss is not finite"):
        failed.leave()
    assert not store.exists("best/manifest.json")
