"""`python -m ray_jobs.waltzrl.sweep`: many WaltzRL trainings, most of them stopped early.

python -m ray_jobs.waltzrl.sweep --recipe toy --output-dir runs/waltz-sweep
python -m ray_jobs.waltzrl.sweep --space "alpha=0.3,0.65,1 beta=1e-3:1e-1" --metric asr \\
    --max-cost-usd 20 --output-dir s3://bucket/sweep

A trial is both stages on one worker. A sweep that was killed goes on with `--resume`.
"""

import dataclasses
import json
import logging
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from data.command_line import run_main
from data.storage import Store
from ray_jobs.activations.prepare import cache_dir
from ray_jobs.cli import parse_recipe
from ray_jobs.results.run_directory import code_identity
from ray_jobs.runtime.fit import JobOptions, WorkerContext, connect, single_worker_context
from ray_jobs.runtime.progress import log_to_stdout
from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.cost import check_limit
from ray_jobs.sweep.plan import JobSpec, Plan, Report, make_plan
from ray_jobs.sweep.run import Trials, run_sweep
from ray_jobs.sweep.space import Point, shown_point
from ray_jobs.waltzrl.config import WaltzConfig
from ray_jobs.waltzrl.datasets.splits import PromptSets
from ray_jobs.waltzrl.evaluation.report import write_report
from ray_jobs.waltzrl.models.base import BaseModel, prepare_model
from ray_jobs.waltzrl.recipes import RECIPES
from ray_jobs.waltzrl.train import MODEL_SEED, read_prompts, run_identity
from ray_jobs.waltzrl.training.loop import Run, WaltzTask

# The trials of a WaltzRL sweep: ordinary trainings of both stages at points of its space.


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

        Run(task, single_worker_context(told)).go()
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


logger = logging.getLogger(__name__)

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


def recipe(name: str) -> tuple[WaltzConfig, SweepConfig, JobOptions]:
    """The configs of a named recipe."""
    space = name if name in SPACES else "default"
    sweep = SweepConfig(trials=12, space=space, metric="faults")
    return RECIPES[name](), sweep, JobOptions(output_dir="runs/waltz-sweep")


def main(argv: list[str]) -> None:
    """Run from the command line; see the module's docstring."""
    recipes = {name: (lambda n=name: recipe(n)) for name in RECIPES}
    (base, sweep, options), as_json = parse_recipe(argv, "ray_jobs.waltzrl.sweep", recipes)
    log_to_stdout()
    prompts = read_prompts(base)  # a trial has steps and intervals of its own
    plan = make_plan(job_spec(base, sweep, len(prompts.train)), sweep)
    check_limit(sweep, options.price_cents_per_hour)
    connect()
    result = sweep_waltz(plan, base, prompts, options)
    ray.shutdown()
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        best = shown_point(result["best"])
        logger.info("sweep  best %s %.4f: %s", sweep.metric, result["best_metric"], best)
        logger.info("sweep  %s/best, %s/sweep.html", options.output_dir, options.output_dir)


if __name__ == "__main__":
    run_main(main)
