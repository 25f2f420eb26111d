"""Search space of a WaltzRL sweep: its default ranges, its metrics, and the config of a trial."""

import dataclasses
import math

from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.plan import JobSpec
from ray_jobs.sweep.space import Point
from ray_jobs.waltzrl.config import WaltzConfig

SPACES = {
    "default": "alpha=0.3,0.65,1 learning_rate=5e-4:5e-3 beta=1e-3:1e-1",
    "llama8b": "alpha=0.3,0.65,1 learning_rate=1e-7:3e-6 beta=1e-3:1e-1",
}
"""The embedded world's small model learns at rates that would ruin a real one, whose range lies
around the paper's 5e-7."""

METRICS = {"faults": False, "asr": False, "orr": False}
"""Whether a larger value is better. `faults` is the mean of ASR and ORR: each alone is least for
an agent that refuses all, or helps with all."""

KINDS: dict[str, type] = {
    "alpha": float,
    "learning_rate": float,
    "beta": float,
    "lambda_stage1": float,
    "gamma": float,
    "stage1_steps": int,
    "batch_size": int,
}


def job_spec(base: WaltzConfig, sweep: SweepConfig, train_prompts: int) -> JobSpec:
    """The WaltzRL training as a job to sweep."""
    return JobSpec(
        name="waltzrl",
        metrics=METRICS,
        spaces=SPACES,
        kinds=KINDS,
        build=lambda point: trial_config(base, point, train_prompts, sweep),
        has_plateau_rule=False,
    )


def trial_config(
    base: WaltzConfig, point: Point, train_prompts: int, sweep: SweepConfig
) -> WaltzConfig:
    """The config at a point: both stages, `sweep.checks` validations of the second. Its own
    intervals take the place of the recipe's.

    Raises:
        ConfigError: the point has a value that is refused.
    """
    chosen = dataclasses.replace(base, **point, stage="both", single_steps=0)
    steps = chosen.planned_steps(2, train_prompts)
    every = math.ceil(steps / sweep.checks)
    return dataclasses.replace(
        chosen, max_steps=steps, eval_every_steps=every, checkpoint_every_steps=every
    )
