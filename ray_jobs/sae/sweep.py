"""`python -m ray_jobs.sae.sweep`: many SAE trainings, most of them stopped early; the best is kept.

python -m ray_jobs.sae.sweep --recipe demo --output-dir runs/sweep
python -m ray_jobs.sae.sweep --space "k=32,64 learning_rate=5e-4:5e-3" --metric probe_f1 \\
    --search optuna --max-concurrent 8 --max-cost-cents 2000 --output-dir s3://bucket/sweep

All trials train on as many tokens as the recipe does, whatever their batch. A sweep that was
killed resumes with `--resume`.
"""

import dataclasses
import json
import sys
from functools import partial

from data.command_line import module_logger, run_main
from ray_jobs.activations.dataset import DataConfig
from ray_jobs.cli import parse_recipe
from ray_jobs.runtime.options import JobOptions
from ray_jobs.sae.config import RECIPES, SAEConfig
from ray_jobs.sae.search_space import SPACES, job_spec
from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.plan import make_plan
from ray_jobs.sweep.space import shown_point

logger = module_logger(__name__)


def recipe(name: str) -> tuple[SAEConfig, DataConfig, SweepConfig, JobOptions]:
    """The configs of a named recipe."""
    space = name if name in SPACES else "default"
    return RECIPES[name](), DataConfig(), SweepConfig(space=space), JobOptions()


def main(argv: list[str]) -> None:
    """Run from the command line; see the module's docstring."""
    recipes = {name: partial(recipe, name) for name in RECIPES}
    configs, as_json = parse_recipe(
        argv, "python -m ray_jobs.sae.sweep", recipes, ("sae", "data", "sweep", "job")
    )
    base, data, sweep, options = configs
    base = dataclasses.replace(base, enable_early_stopping=True)
    plan = make_plan(job_spec(base, sweep), sweep)
    data.check_files()
    # PyTorch and Ray only now: a mistake is answered at once.
    import ray

    from ray_jobs.runtime.fit import connect
    from ray_jobs.runtime.progress import log_to_stdout
    from ray_jobs.sae.job import prepare_for
    from ray_jobs.sae.trials import sweep_sae
    from ray_jobs.sweep.cost import check_limit

    check_limit(sweep, options.price_cents_per_hour)
    log_to_stdout()
    if sweep.metric == "fvu" and "k" in plan.space.dimensions:
        logger.warning("sweep  FVU falls with k by itself: probe_f1 compares different k")
    connect()
    result = sweep_sae(plan, base, lambda watch: prepare_for(base, data, options, watch), options)
    ray.shutdown()
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    best = shown_point(result["best"])
    logger.info("sweep  best %s %.4f: %s", sweep.metric, result["best_metric"], best)
    logger.info("sweep  %s/best, %s/sweep.html", options.output_dir, options.output_dir)


if __name__ == "__main__":
    run_main(main)
