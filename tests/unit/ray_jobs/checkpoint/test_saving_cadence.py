"""When a checkpoint is due: every N steps, every M minutes, and at the end of an epoch."""

import threading
from pathlib import Path
from typing import Any

import pytest

from data.storage import Store
from ray_jobs.checkpoint import CheckpointStore
from ray_jobs.checkpoint.saving import Saving

MINUTE_S = 60.0


class Training:
    """Takes steps of a given length, 100 to an epoch; a checkpoint is due every 40 or 10 min."""

    def __init__(self, folder: Path, step_s: float) -> None:
        self.store = CheckpointStore(Store.open(str(folder)), keep=99)
        self.now_s, self.step, self.step_s = 0.0, 0, step_s
        state: dict[str, Any] = {"a": 1}
        self.saving = Saving(self.store, 0, lambda: state, {}, 40, 10, clock=lambda: self.now_s)

    def go(self, steps: int, settled: bool = True) -> None:
        for _ in range(steps):
            self.step += 1
            self.now_s += self.step_s
            self.saving.save_if_due(self.step, epoch_ends=self.step % 100 == 0)
            if settled:
                self.saving.settle()

    def saved(self) -> list[int]:
        return sorted(info.step for info in self.store.committed())


def test_quick_steps_are_saved_by_their_number_and_at_the_end_of_each_epoch(tmp_path: Path):
    training = Training(tmp_path, step_s=0.1)
    training.go(210)
    assert training.saved() == [40, 80, 100, 120, 160, 200]


def test_slow_steps_are_saved_by_the_clock_counted_from_the_save_before(tmp_path: Path):
    training = Training(tmp_path, step_s=0.7 * MINUTE_S)
    training.go(70)  # 10 minutes are 15 steps; step 40 counts by its number
    assert training.saved() == [15, 30, 40, 55, 70]


def test_what_falls_due_while_a_save_is_in_flight_is_saved_once_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stored = threading.Event()
    save = CheckpointStore.save

    def slowly(*args: Any, **options: Any) -> Any:
        assert stored.wait(60)
        return save(*args, **options)

    monkeypatch.setattr(CheckpointStore, "save", slowly)
    training = Training(tmp_path, step_s=0.1)
    training.go(105, settled=False)  # 40 is in flight; 80 and the epoch fall due
    stored.set()
    training.saving.settle()
    training.go(5)
    assert training.saved() == [40, 106]
