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
import sys
from collections.abc import Callable
from typing import Any

import ray

from ray_jobs.activations.dataset import DataConfig
from ray_jobs.activations.prepare import Prepared, cache_dir
from ray_jobs.cli import parse_recipe, run_main
from ray_jobs.runtime.fit import JobOptions, connect
from ray_jobs.runtime.progress import log_to_stdout
from ray_jobs.sae.config import PROBE_METRICS, RECIPES, SAEConfig
from ray_jobs.sae.probe import ProbeData, labelled_tokens
from ray_jobs.sae.schedule import planned_steps
from ray_jobs.sae.train import prepare_for, run_identity
from ray_jobs.sae.trials import SAETrials, trial_config
from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.plan import JobSpec, Plan, make_plan
from ray_jobs.sweep.prices import check_limit
from ray_jobs.sweep.run import Trials, run_sweep
from ray_jobs.sweep.space import shown_point

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
