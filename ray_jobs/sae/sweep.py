"""`python -m ray_jobs.sae.sweep`: many TopK SAEs on one set of activations, most stopped early.

python -m ray_jobs.sae.sweep --recipe demo --output-dir runs/sweep
python -m ray_jobs.sae.sweep --space "k=32,64 learning_rate=5e-4:5e-3" --metric probe_f1 \\
    --search optuna --max-cost-usd 20 --output-dir s3://bucket/sweep

All trials train on as many tokens as the recipe does, whatever their batch. A sweep that was
killed goes on with `--resume`.
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
from ray_jobs.activations.dataset import DataConfig
from ray_jobs.activations.prepare import Prepared, cache_dir
from ray_jobs.activations.shards import ActivationSet
from ray_jobs.cli import parse_recipe
from ray_jobs.results.run_directory import code_identity
from ray_jobs.runtime.fit import JobOptions, WorkerContext, connect, single_worker_context
from ray_jobs.runtime.progress import log_to_stdout
from ray_jobs.sae.config import PROBE_METRICS, RECIPES, SAEConfig, planned_steps
from ray_jobs.sae.loop import SAETask, finish_at, train_at
from ray_jobs.sae.probe import ProbeData, labelled_tokens
from ray_jobs.sae.train import prepare_for, run_identity
from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.cost import check_limit
from ray_jobs.sweep.plan import JobSpec, Plan, Report, make_plan
from ray_jobs.sweep.run import Trials, run_sweep
from ray_jobs.sweep.space import Point, shown_point

# The trials of an SAE sweep: ordinary trainings at the points of its search space.


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

        train_at(single_worker_context(told), task)

    def finish(self, point: Point, folder: Store) -> int | None:
        """See `ray_jobs.sweep.plan.FinishTrial`."""
        task = self.task(point, folder)
        in_driver = WorkerContext(0, 1, torch.device("cpu"), lambda _: None)
        step = finish_at(in_driver, task)
        return None if step is None else self._check_at(step, task)

    def _check_at(self, step: int, task: SAETask) -> int:
        """Checks made by `step`, of `sweep.checks` in a whole trial."""
        assert task.config.max_steps is not None
        return self.sweep.checks * step // task.config.max_steps


logger = logging.getLogger(__name__)

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


def sweep_sae(
    plan: Plan,
    base: SAEConfig,
    prepare: Callable[[Callable[[], None]], Prepared],
    options: JobOptions,
) -> dict[str, Any]:
    """Sweep over the activations that `prepare` makes ready; see `ray_jobs.sweep.run.run_sweep`."""

    def trials(watch: Callable[[], None]) -> Trials:
        prepared = prepare(watch)
        train = prepared.activations["train"]
        about = run_identity(base, prepared)
        each = SAETrials(
            base=base,
            sweep=plan.config,
            tokens=base.batch_size * planned_steps(base, train.n_rows // base.batch_size),
            train=train,
            held_out=prepared.activations["validation"],
            cache_dir=cache_dir(options) / "shards",
            probe=probe_data(prepared) if plan.config.metric in PROBE_METRICS else None,
            about=about,
        )
        return Trials(each.run, each.finish, each.identity, about)

    return run_sweep(plan, trials, options)


def probe_data(prepared: Prepared) -> ProbeData:
    """Labelled tokens of the training and the validation texts."""
    train = prepared.activations["train"]
    fit, score = (
        labelled_tokens(prepared.activations[split], prepared.dataset.labelled[split], train)
        for split in ("train", "validation")
    )
    return ProbeData(fit, score)


def recipe(name: str) -> tuple[SAEConfig, DataConfig, SweepConfig, JobOptions]:
    """The configs of a named recipe."""
    space = name if name in SPACES else "default"
    return RECIPES[name](), DataConfig(), SweepConfig(space=space), JobOptions()


def main(argv: list[str]) -> None:
    """Run from the command line; see the module's docstring."""
    recipes = {name: (lambda n=name: recipe(n)) for name in RECIPES}
    (base, data, sweep, options), as_json = parse_recipe(argv, "ray_jobs.sae.sweep", recipes)
    base = dataclasses.replace(base, enable_early_stopping=True)
    plan = make_plan(job_spec(base, sweep), sweep)
    check_limit(sweep, options.price_cents_per_hour)
    log_to_stdout()
    if sweep.metric == "fvu" and "k" in plan.space.dimensions:
        logger.warning("sweep  FVU falls with k by itself: probe_f1 compares different k")
    connect()
    result = sweep_sae(plan, base, lambda watch: prepare_for(base, data, options, watch), options)
    ray.shutdown()
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        logger.info(
            "sweep  best %s %.4f: %s",
            sweep.metric,
            result["best_metric"],
            shown_point(result["best"]),
        )
        logger.info("sweep  %s/best, %s/sweep.html", options.output_dir, options.output_dir)


if __name__ == "__main__":
    run_main(main)
