"""Command `python -m ray_jobs.waltzrl.sweep`: many WaltzRL trainings, most stopped early.

python -m ray_jobs.waltzrl.sweep --recipe toy --output-dir runs/waltz-sweep
python -m ray_jobs.waltzrl.sweep --space "alpha=0.3,0.65,1 beta=1e-3:1e-1" --metric asr \\
    --max-cost-cents 2000 --output-dir s3://bucket/sweep

A trial is an ordinary training of both stages on one worker, at a point of the space. A killed
sweep resumes with `--resume`.
"""

import json
import sys
from functools import partial

from data.command_line import module_logger, run_main
from ray_jobs.cli import parse_recipe
from ray_jobs.runtime.options import JobOptions
from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.plan import make_plan
from ray_jobs.sweep.space import shown_point
from ray_jobs.waltzrl.config import WaltzConfig
from ray_jobs.waltzrl.recipes import RECIPES
from ray_jobs.waltzrl.search_space import SPACES, job_spec

logger = module_logger(__name__)


def recipe(name: str) -> tuple[WaltzConfig, SweepConfig, JobOptions]:
    """The configs of a named recipe."""
    space = name if name in SPACES else "default"
    sweep = SweepConfig(trials=12, space=space, metric="faults")
    return RECIPES[name](), sweep, JobOptions(output_dir="runs/waltz-sweep")


def main(argv: list[str]) -> None:
    """Run from the command line; see the module's docstring."""
    recipes = {name: partial(recipe, name) for name in RECIPES}
    configs, as_json = parse_recipe(
        argv, "python -m ray_jobs.waltzrl.sweep", recipes, ("waltz", "sweep", "job")
    )
    base, sweep, options = configs
    base.check_files()
    # PyTorch and Ray only now: a mistake is answered at once.
    import ray

    from ray_jobs.runtime.fit import connect
    from ray_jobs.runtime.progress import log_to_stdout
    from ray_jobs.sweep.cost import check_limit
    from ray_jobs.waltzrl.job import read_prompts
    from ray_jobs.waltzrl.trials import sweep_waltz

    log_to_stdout()
    prompts = read_prompts(base)  # a trial has steps and intervals of its own
    plan = make_plan(job_spec(base, sweep, len(prompts.train)), sweep)
    check_limit(sweep, options.price_cents_per_hour)
    connect()
    result = sweep_waltz(plan, base, prompts, options)
    ray.shutdown()
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    best = shown_point(result["best"])
    logger.info("sweep  best %s %.4f: %s", sweep.metric, result["best_metric"], best)
    logger.info("sweep  %s/best, %s/sweep.html", options.output_dir, options.output_dir)


if __name__ == "__main__":
    run_main(main)
