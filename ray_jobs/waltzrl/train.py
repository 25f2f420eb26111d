"""Command `python -m ray_jobs.waltzrl.train`: both WaltzRL agents trained on Ray Train.

python -m ray_jobs.waltzrl.train --recipe toy --output-dir runs/waltz
python -m ray_jobs.waltzrl.train --recipe llama8b --gpus 8 --output-dir s3://bucket/run
python -m ray_jobs.waltzrl.train --recipe llama8b --gpus 8 --data FILES ... --dry-run

A field of the recipe can also be set by an environment variable (WALTZRL_DATA, _EPOCHS,
_BATCH_SIZE, _LEARNING_RATE, _OUTPUT_DIR, _GRADIENT_ACCUMULATION); flags win.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from data.command_line import module_logger, run_main
from data.storage import Store
from ray_jobs.cli import parse_recipe
from ray_jobs.runtime.options import JobOptions
from ray_jobs.waltzrl.config import WORLD, WaltzConfig
from ray_jobs.waltzrl.options import PlanOptions
from ray_jobs.waltzrl.recipes import RECIPES

logger = module_logger(__name__)

ENVIRONMENT = {
    f"WALTZRL_{name}": f"--{name.lower().replace('_', '-')}"
    for name in (
        "DATASET",
        "DATA",
        "EPOCHS",
        "BATCH_SIZE",
        "LEARNING_RATE",
        "OUTPUT_DIR",
        "GRADIENT_ACCUMULATION",
    )
}
"""The environment's variables and the flags that they stand for."""

ALIASES = {"--gpus": ["--use-gpu", "--num-workers"], "--resume-from": ["--storage"]}
"""Flags that stand for others; the last of a list takes the value."""


def recipe(name: str) -> tuple[WaltzConfig, JobOptions, PlanOptions]:
    """The configs of a named recipe."""
    return RECIPES[name](), JobOptions(output_dir="runs/waltz"), PlanOptions()


def with_environment(argv: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Flags from the environment's variables, then those of `argv`, which win, ALIASES replaced."""
    flags = [
        f"{flag}={environment[name]}" for name, flag in ENVIRONMENT.items() if name in environment
    ]
    for argument in argv:
        name, equals, value = argument.partition("=")
        ours = ALIASES.get(name, [name])
        flags += [*ours[:-1], ours[-1] + equals + value]
    return flags


def main(argv: list[str]) -> None:
    """Run from the command line; see the module's docstring."""
    recipes = {name: partial(recipe, name) for name in RECIPES}
    flags = with_environment(argv, os.environ)
    configs, as_json = parse_recipe(
        flags, "python -m ray_jobs.waltzrl.train", recipes, ("waltz", "job", "plan")
    )
    config, options, plan = configs
    config.check_files()
    # PyTorch and Ray only now: a mistake is answered at once.
    import ray

    from ray_jobs.runtime.fit import connect
    from ray_jobs.runtime.progress import log_to_stdout
    from ray_jobs.waltzrl.job import train_waltz

    log_to_stdout()
    if plan.dry_run:
        _show_plan(config, options, plan, as_json)
        return
    connect()
    must_resume = any(each.split("=")[0] == "--resume-from" for each in argv)
    result = train_waltz(config, options, must_resume)
    ray.shutdown()
    _show(config, options, result, as_json)


def _show_plan(config: WaltzConfig, options: JobOptions, plan: PlanOptions, as_json: bool) -> None:
    """Print what the run would do, hold and cost; starts nothing."""
    from ray_jobs.waltzrl.job import check_and_read
    from ray_jobs.waltzrl.planning.dry_run import plan_run
    from ray_jobs.waltzrl.planning.report import plan_lines

    found = plan_run(config, options, plan, check_and_read(config))
    for line in plan_lines(config, found):
        logger.info("plan   %s", line)
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")


def _show(
    config: WaltzConfig, options: JobOptions, result: Mapping[str, Any], as_json: bool
) -> None:
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    known = ((name, value) for name, value in result.items() if value is not None)
    logger.info("waltz  %s", "  ".join(f"{name} {value:.3g}" for name, value in known))
    if config.model == WORLD:
        logger.info("waltz  of an invented world: says nothing about a real model's safety")
    logger.info("waltz  %s", Store.open(options.output_dir).uri)


if __name__ == "__main__":
    run_main(main)
