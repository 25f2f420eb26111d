"""The trials of an SAE sweep: ordinary trainings at the points of its search space."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.storage import Store
from ray_jobs.activations.prepare import Prepared, cache_dir
from ray_jobs.activations.shards import ActivationSet
from ray_jobs.results.run_directory import code_identity
from ray_jobs.runtime.fit import WorkerContext, single_worker_context
from ray_jobs.runtime.options import JobOptions
from ray_jobs.sae.config import PROBE_METRICS, SAEConfig, planned_steps
from ray_jobs.sae.job import run_identity
from ray_jobs.sae.loop import SAETask, finish_at, train_at
from ray_jobs.sae.probe import ProbeData, labelled_tokens
from ray_jobs.sae.search_space import trial_config
from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.plan import Plan, Report
from ray_jobs.sweep.run import Trials, run_sweep
from ray_jobs.sweep.space import Point


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
    """What decides a trial's weights besides its config."""

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

        def report_check(metrics: dict[str, Any]) -> None:
            check = self._check_at(metrics["step"], task)
            report({**metrics, "check": check, "planned_steps": task.config.max_steps})

        train_at(single_worker_context(report_check), task)

    def finish(self, point: Point, folder: Store) -> int | None:
        """See `ray_jobs.sweep.plan.FinishTrial`."""
        task = self.task(point, folder)
        in_driver = WorkerContext(0, 1, torch.device("cpu"), lambda _: None)
        step = finish_at(in_driver, task)
        return None if step is None else self._check_at(step, task)

    def _check_at(self, step: int, task: SAETask) -> int:
        """Checks made by `step`, of `sweep.checks` in a complete trial."""
        assert task.config.max_steps is not None
        return self.sweep.checks * step // task.config.max_steps


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
            tokens=base.batch_size * planned_steps(base, train.n_ordinary // base.batch_size),
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
