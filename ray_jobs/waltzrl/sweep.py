"""`python -m ray_jobs.waltzrl.sweep`: many WaltzRL trainings, most of them stopped early.

python -m ray_jobs.waltzrl.sweep --recipe toy --output-dir runs/waltz-sweep
python -m ray_jobs.waltzrl.sweep --space "alpha=0.3,0.65,1 beta=1e-3:1e-1" --metric asr \\
    --max-cost-usd 20 --output-dir s3://bucket/sweep

A trial is both stages on one worker. A sweep that was killed goes on with `--resume`.
"""

import json
import logging
import sys
from collections.abc import Callable
from typing import Any

import ray

from data.storage import Store
from ray_jobs.activations.prepare import cache_dir
from ray_jobs.cli import parse_recipe, run_main
from ray_jobs.runtime.fit import JobOptions, connect
from ray_jobs.runtime.progress import log_to_stdout
from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.plan import JobSpec, Plan, make_plan
from ray_jobs.sweep.prices import check_limit
from ray_jobs.sweep.run import Trials, run_sweep
from ray_jobs.sweep.space import shown_point
from ray_jobs.waltzrl.config import RECIPES, WaltzConfig
from ray_jobs.waltzrl.datasets.splits import PromptSets
from ray_jobs.waltzrl.models.base import prepare_model
from ray_jobs.waltzrl.train import MODEL_SEED, read_prompts, run_identity
from ray_jobs.waltzrl.trials import WaltzTrials, trial_config

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
