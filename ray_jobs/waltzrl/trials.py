"""The trials of a WaltzRL sweep: ordinary trainings of both stages at points of its space.

Apart from the entry point, so that a trial's process need not import what only the driver uses.
Of a trial's checks count those of stage 2; stage 1 comes before the first. Its steps are those
of both.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.storage import Store
from ray_jobs.results.run_directory import code_identity
from ray_jobs.runtime.fit import Place, place_alone
from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.plan import Report
from ray_jobs.sweep.space import Point
from ray_jobs.waltzrl.config import WaltzConfig
from ray_jobs.waltzrl.datasets.splits import PromptSets
from ray_jobs.waltzrl.evaluation.report import write_report
from ray_jobs.waltzrl.models.base import BaseModel
from ray_jobs.waltzrl.training.loop import Run, WaltzTask


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
        chosen, max_steps=steps, validation_interval=every, checkpoint_interval=every
    )


@dataclass(frozen=True)
class WaltzTrials:
    """Runs and finishes trials; pickles small: the model stays in its store."""

    base: WaltzConfig
    sweep: SweepConfig
    model: BaseModel
    prompts: PromptSets
    cache_dir: Path
    about: Mapping[str, Any]
    """What decides a trial's agents beside its config."""

    def task(self, point: Point, folder: Store) -> WaltzTask:
        """The ordinary training at a point."""
        return WaltzTask(
            config=self._config(point),
            model=self.model,
            prompts=self.prompts,
            checkpoints=folder.child("checkpoints"),
            output=folder,
            cache_dir=self.cache_dir,
            price_cents_per_hour=None,
            identity=self.identity(point),
        )

    def identity(self, point: Point) -> dict[str, Any]:
        """What the training at a point depends on, as its run directory says it."""
        config = self._config(point)
        return {**self.about, "waltzrl": dataclasses.asdict(config), **code_identity()}

    def _config(self, point: Point) -> WaltzConfig:
        return trial_config(self.base, point, len(self.prompts.train), self.sweep)

    def run(self, point: Point, folder: Store, report: Report) -> None:
        """See `ray_jobs.sweep.plan.RunTrial`."""
        task = self.task(point, folder)
        before, stage2 = task.config.stage1_steps, task.config.max_steps
        assert stage2 is not None

        def told(metrics: dict[str, Any]) -> None:
            if metrics["stage"] == 2:
                report(
                    {
                        **metrics,
                        "step": before + metrics["step"],
                        "planned_steps": before + stage2,
                        "faults": (metrics["asr"] + metrics["orr"]) / 2,
                        "check": self._check_at(metrics["step"], task),
                    }
                )

        Run(task, place_alone(told)).go()
        self._write_report(task)

    def finish(self, point: Point, folder: Store) -> int | None:
        """See `ray_jobs.sweep.plan.FinishTrial`."""
        task = self.task(point, folder)
        step = Run(task, Place(0, 1, torch.device("cpu"), lambda _: None)).finish()
        if step is None:
            return None
        self._write_report(task)
        return self._check_at(step, task)

    def _write_report(self, task: WaltzTask) -> None:
        workers = f"1, a trial of a sweep, ZeRO {task.config.zero_stage}, {task.config.dtype}"
        write_report(task.config, task.prompts, workers, task.output)

    def _check_at(self, step: int, task: WaltzTask) -> int:
        """Checks made by `step`, of `sweep.checks` in a whole trial."""
        assert task.config.max_steps is not None
        return self.sweep.checks * step // task.config.max_steps
