"""What an SAE sweep varies: its search spaces and metrics, and the config of a trial at a point."""

import dataclasses
import math

from ray_jobs.sae.config import SAEConfig
from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.plan import JobSpec
from ray_jobs.sweep.space import Point

SPACES = {
    "default": "learning_rate=2e-4:2e-2 n_latents=1536,3072 aux_weight=0,0.03125,0.125 "
    "batch_size=512,1024,2048",
    "with-k": "k=16,32,64,128 learning_rate=2e-4:2e-2 n_latents=1536,3072 "
    "aux_weight=0,0.03125,0.125 batch_size=512,1024,2048",
    "full": "learning_rate=2e-4:5e-3 n_latents=16384,32768,65536 aux_weight=0,0.03125,0.125 "
    "batch_size=8192,16384,32768",
    "full-with-k": "k=32,64,128 learning_rate=2e-4:5e-3 n_latents=16384,32768,65536 "
    "aux_weight=0,0.03125,0.125 batch_size=8192,16384,32768",
}
"""FVU falls with k by itself: vary k under an F1."""

METRICS = {"fvu": False, "validation_f1": True, "probe_f1": True}
"""Whether a larger value is better."""

KINDS: dict[str, type] = {
    "k": int,
    "learning_rate": float,
    "n_latents": int,
    "aux_weight": float,
    "batch_size": int,
}


def job_spec(base: SAEConfig, sweep: SweepConfig) -> JobSpec:
    """The SAE training as a job to sweep."""
    tokens = (base.max_steps or sweep.checks) * base.batch_size
    return JobSpec(
        name="sae",
        metrics=METRICS,
        spaces=SPACES,
        kinds=KINDS,
        build=lambda point: trial_config(base, point, max(tokens, 2**31), sweep),
        has_plateau_rule=base.enable_early_stopping,
    )


def trial_config(base: SAEConfig, point: Point, tokens: int, sweep: SweepConfig) -> SAEConfig:
    """The config of a trial: the point, on `tokens` tokens, with `sweep.checks` checks.

    The plateau rule watches the sweep's metric, and is patient for as many tokens as the
    recipe's, however close the checks are. Raises ConfigError where the point is refused.
    """
    batch_size = point.get("batch_size", base.batch_size)
    steps = max(1, tokens // batch_size)
    every = math.ceil(steps / sweep.checks)
    patience_tokens = base.early_stopping_patience * base.eval_every_steps * base.batch_size
    return dataclasses.replace(
        base,
        **point,
        # Rounding a batch down to whole steps may need a row more than the recipe's epochs have.
        epochs=base.epochs + 1,
        max_steps=steps,
        warmup_steps=min(base.warmup_steps, steps - 1),
        eval_every_steps=every,
        checkpoint_every_steps=every,
        early_stopping_metric=sweep.metric,
        early_stopping_patience=math.ceil(patience_tokens / (every * batch_size)),
    )
