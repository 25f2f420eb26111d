"""What a stage decides by its position alone."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from ray_jobs.runtime import Place
from ray_jobs.waltzrl.config import WaltzConfig
from ray_jobs.waltzrl.prompts_of_run import open_prompts
from ray_jobs.waltzrl.stage import Stage, Voices

CONFIG = WaltzConfig(learning_rate=0.5, max_steps=10, warmup_steps=2)


def rates(config: WaltzConfig) -> list[float]:
    """The learning rate of every step of stage 2; nothing is sampled or judged for it."""
    nobody = cast(Any, None)
    place = Place(0, 1, torch.device("cpu"), lambda metrics: None)
    stage = Stage(2, Voices(config, nobody), open_prompts(config).train, nobody, place)
    found = []
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
