"""Trials of a WaltzRL sweep: ordinary trainings of both stages at points of its space.

Of a trial's checks count those of stage 2; stage 1 comes before the first. Its steps are those of
both.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.storage import Store
from ray_jobs.activations.prepare import cache_dir
from ray_jobs.results.run_directory import code_identity
from ray_jobs.runtime.fit import WorkerContext, single_worker_context
from ray_jobs.runtime.options import JobOptions
from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.plan import Plan, Report
from ray_jobs.sweep.run import Trials, run_sweep
from ray_jobs.sweep.space import Point
from ray_jobs.waltzrl.config import WaltzConfig
from ray_jobs.waltzrl.datasets.splits import PromptSets
from ray_jobs.waltzrl.evaluation.report import write_report
from ray_jobs.waltzrl.job import MODEL_SEED, run_identity
from ray_jobs.waltzrl.models.base import BaseModel, prepare_model
from ray_jobs.waltzrl.search_space import trial_config
from ray_jobs.waltzrl.training.loop import Run, WaltzTask


@dataclass(frozen=True)
class WaltzTrials:
    """Runs and finishes trials; pickles small: the model stays in its store."""

    base: WaltzConfig
    sweep: SweepConfig
    model: BaseModel
    prompts: PromptSets
    cache_dir: Path
    about: Mapping[str, Any]
    """What decides a trial's agents, apart from its config."""

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

        def report_check(metrics: dict[str, Any]) -> None:
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

        Run(task, single_worker_context(report_check)).go()
        self._write_report(task)

    def finish(self, point: Point, folder: Store) -> int | None:
        """See `ray_jobs.sweep.plan.FinishTrial`."""
        task = self.task(point, folder)
        step = Run(task, WorkerContext(0, 1, torch.device("cpu"), lambda _: None)).finish()
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


def sweep_waltz(
    plan: Plan, base: WaltzConfig, prompts: PromptSets, options: JobOptions
) -> dict[str, Any]:
    """Sweep over prompts that are there; see `ray_jobs.sweep.run.run_sweep`."""

    def trials(watch: Callable[[], None]) -> Trials:
        model = prepare_model(base.model, MODEL_SEED, Store.open(options.storage_uri))
        about = run_identity(base, model, prompts)
        each = WaltzTrials(
            base=base,
            sweep=plan.config,
            model=model,
            prompts=prompts,
            cache_dir=cache_dir(options) / "models",
            about=about,
        )
        return Trials(each.run, each.finish, each.identity, about)

    return run_sweep(plan, trials, options)
