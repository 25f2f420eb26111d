"""What a stage decides by its position alone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from ray_jobs.runtime.fit import WorkerContext
from ray_jobs.waltzrl.config import WaltzConfig
from ray_jobs.waltzrl.datasets.splits import open_prompts
from ray_jobs.waltzrl.training.stage import SamplerFactory, Stage

CONFIG = WaltzConfig(learning_rate=0.5, max_steps=10, warmup_steps=2)


def stage_of(config: WaltzConfig, preempted: Callable[[], bool] = lambda: False) -> Stage:
    """Stage 2; nothing is sampled or judged for what these tests ask."""
    nobody = cast(Any, None)
    place = WorkerContext(0, 1, torch.device("cpu"), lambda metrics: None, preempted)
    return Stage(2, SamplerFactory(config, nobody), open_prompts(config).train, nobody, place)


def rates(config: WaltzConfig) -> list[float]:
    """The learning rate of every step."""
    stage, found = stage_of(config), []
    for step in range(stage.history.planned_steps):
        stage.step = step
        found.append(stage.learning_rate())
    return found


def test_the_learning_rate_warms_up_and_stays():
    assert rates(CONFIG) == [0.25, *[0.5] * 9]


def test_or_falls_in_a_line_to_its_share():
    found = rates(replace(CONFIG, final_learning_rate_share=0.2))
    assert found == pytest.approx([0.25, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1])


def test_a_stage_shorter_than_its_warm_up_only_warms_up():
    found = rates(replace(CONFIG, warmup_steps=20, final_learning_rate_share=0.2))
    assert found == pytest.approx([0.5 * step / 20 for step in range(1, 11)])


def test_every_notice_that_a_machine_goes_is_answered_once():
    notices = iter([False, True, True, False, True])
    stage, saved = stage_of(CONFIG, lambda: next(notices)), []

    class Spy:
        def save_if_due(self, step: int, epoch_ends: bool) -> None:
            saved.append("if due")

        def save_now(self, step: int) -> None:
            saved.append("now")

    for _ in range(5):
        stage._save(cast(Any, Spy()))
    assert saved == ["if due", "now", "if due", "if due", "now"]
