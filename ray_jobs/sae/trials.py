"""The trials of an SAE sweep: ordinary trainings at the points of its search space.

Apart from the entry point, so that a trial's process need not import what only the driver uses.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.storage import Store
from ray_jobs.activations.shards import ActivationSet
from ray_jobs.results.run_directory import code_identity
from ray_jobs.runtime.fit import Place, place_alone
from ray_jobs.sae.config import SAEConfig
from ray_jobs.sae.loop import SAETask, finish_at, train_at
from ray_jobs.sae.probe import ProbeData
from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.plan import Report
from ray_jobs.sweep.space import Point


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


@dataclass(frozen=True)
class SAETrials:
    """Runs and finishes trials; pickles small: activations stay in their store."""

    base: SAEConfig
    sweep: SweepConfig
    tokens: int
    """Of each trial, in the course of all its epochs."""
    train: ActivationSet
    held_out: ActivationSet
    cache_dir: Path
    probe: ProbeData | None
    about: Mapping[str, Any]
    """What decides a trial's weights beside its config."""

    def task(self, point: Point, folder: Store) -> SAETask:
        """The ordinary training at a point."""
        return SAETask(
            config=self._config(point),
            train=self.train,
            held_out=self.held_out,
            checkpoints=folder.child("checkpoints"),
            output=folder,
            cache_dir=self.cache_dir,
            price_cents_per_hour=None,
            identity=self.identity(point),
            probe=self.probe,
        )

    def identity(self, point: Point) -> dict[str, Any]:
        """What the training at a point depends on, as its run directory says it."""
        config = self._config(point)
        return {**self.about, "sae": dataclasses.asdict(config), **code_identity()}

    def _config(self, point: Point) -> SAEConfig:
        return trial_config(self.base, point, self.tokens, self.sweep)

    def run(self, point: Point, folder: Store, report: Report) -> None:
        """See `ray_jobs.sweep.plan.RunTrial`."""
        task = self.task(point, folder)

        def told(metrics: dict[str, Any]) -> None:
            check = self._check_at(metrics["step"], task)
            report({**metrics, "check": check, "planned_steps": task.config.max_steps})

        train_at(place_alone(told), task)

    def finish(self, point: Point, folder: Store) -> int | None:
        """See `ray_jobs.sweep.plan.FinishTrial`."""
        task = self.task(point, folder)
        in_driver = Place(0, 1, torch.device("cpu"), lambda _: None)
        step = finish_at(in_driver, task)
        return None if step is None else self._check_at(step, task)

    def _check_at(self, step: int, task: SAETask) -> int:
        """Checks made by `step`, of `sweep.checks` in a whole trial."""
        assert task.config.max_steps is not None
        return self.sweep.checks * step // task.config.max_steps
