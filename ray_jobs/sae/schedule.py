"""How long a training runs, and its learning rate on the way."""

import math

from ray_jobs.sae.config import SAEConfig


def planned_steps(config: SAEConfig, steps_per_epoch: int) -> int:
    """Optimizer steps of the whole plan."""
    total = config.epochs * steps_per_epoch
    return total if config.max_steps is None else min(total, config.max_steps)


def learning_rate_at(config: SAEConfig, step: int, total_steps: int) -> float:
    """Linear warm-up, then a cosine that reaches zero at `total_steps`; `step` counts from 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    through = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * through))
