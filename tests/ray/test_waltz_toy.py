"""What the embedded world promises: both faults nearly gone in two minutes, whatever the seed."""

import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from data.storage import Store
from ray_jobs.waltzrl.config import WORLD
from ray_jobs.waltzrl.job import MODEL_SEED
from ray_jobs.waltzrl.models.base import BaseModel, prepare_model
from ray_jobs.waltzrl.recipes import toy
from tests.ray.waltz_rig import run_alone

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

SEEDS = (0, 1, 2)
RUN_CPU_S = 80.0
"""Of the two minutes on one core that the recipe promises; its base model, built once, has 40."""


def rows_of(seed: int, model: BaseModel, folder: Path) -> tuple[dict[str, Any], float]:
    """The final rows of a run of the recipe, and the CPU-seconds that it took."""
    start_s = time.process_time()
    run_alone(replace(toy(), seed=seed), model, folder / str(seed))
    taken_s = time.process_time() - start_s
    return json.loads((folder / str(seed) / "evaluation.json").read_text()), taken_s


def test_the_toy_recipe_removes_both_faults_for_every_seed(tmp_path: Path) -> None:
    model = prepare_model(WORLD, MODEL_SEED, Store.open(str(tmp_path)))
    # One thread each, of their own: DeepSpeed has one group a process.
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as processes:
        found = list(processes.map(partial(rows_of, model=model, folder=tmp_path), SEEDS))
    # The quickest of them: a busy machine's processors do less in a second.
    assert min(taken_s for _, taken_s in found) < RUN_CPU_S
    for rows, _ in found:
        base, trained = rows["base"], rows["waltzrl"]
        for fault in ("asr", "orr"):
            assert base[fault]["value"] > 0.25, rows
            assert trained[fault]["value"] < 0.05, rows
