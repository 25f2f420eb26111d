"""`python -m ray_jobs.waltzrl.train`: two agents learn together, WaltzRL on Ray Train.

python -m ray_jobs.waltzrl.train --recipe toy --output-dir runs/waltz
python -m ray_jobs.waltzrl.train --recipe llama8b --gpus 8 --output-dir s3://bucket/run
python -m ray_jobs.waltzrl.train --recipe llama8b --gpus 8 --dataset FILES ... --dry-run

A field of the recipe can also be set by an environment variable (WALTZRL_DATASET, _EPOCHS,
_BATCH_SIZE, _LEARNING_RATE, _OUTPUT_DIR, _GRADIENT_ACCUMULATION); flags win.
"""

import dataclasses
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from data.command_line import run_main
from data.errors import ConfigError
from data.storage import Store
from ray_jobs.activations.prepare import cache_dir
from ray_jobs.cli import parse_recipe
from ray_jobs.results.history import HISTORY, STAGE_1_HISTORY, trained_by
from ray_jobs.results.run_directory import code_identity, drop_manifest, is_complete, write_manifest
from ray_jobs.runtime.fit import JobOptions, connect, fit
from ray_jobs.runtime.progress import clock_time, log_to_stdout, relay_lines
from ray_jobs.waltzrl.config import WORLD, WaltzConfig
from ray_jobs.waltzrl.datasets.splits import PromptSets, open_prompts
from ray_jobs.waltzrl.evaluation.metrics import repair_verdict
from ray_jobs.waltzrl.evaluation.report import STAGE_1_PAGE, write_report
from ray_jobs.waltzrl.judges.judges import open_judge
from ray_jobs.waltzrl.models.base import BaseModel, prepare_model
from ray_jobs.waltzrl.planning.dry_run import PlanOptions, plan_lines, plan_run
from ray_jobs.waltzrl.recipes import RECIPES
from ray_jobs.waltzrl.rollout.dialogue import AGENTS
from ray_jobs.waltzrl.rollout.server import open_server
from ray_jobs.waltzrl.training.export import COMPARED, agent_file
from ray_jobs.waltzrl.training.loop import WaltzTask, train_loop
from ray_jobs.waltzrl.training.restarts import (
    check_resume,
    checkpoint_store,
    fit_in_memory,
    warn_of_new_start,
)

logger = logging.getLogger("ray_jobs.waltzrl.train")  # also where python -m calls it __main__

MODEL_SEED = 0
"""Of the embedded base model: every run of the embedded world starts from the same one."""

ENVIRONMENT = {
    f"WALTZRL_{name}": f"--{name.lower().replace('_', '-')}"
    for name in (
        "DATASET",
        "EPOCHS",
        "BATCH_SIZE",
        "LEARNING_RATE",
        "OUTPUT_DIR",
        "GRADIENT_ACCUMULATION",
    )
}

FIELDS_SAFE_TO_CHANGE_ON_RESUME = (
    "stage",
    "allow_leak",
    "gradient_accumulation",
    "zero_stage",
    "offload_optimizer",
    "gradient_checkpointing",
    "checkpoint_interval",
    "checkpoint_minutes",
    "keep_checkpoints",
    "conversation_server",
    "feedback_server",
)
"""Fields that may change between two starts of one training: they decide nothing but rounding, or
are in the data's own digest."""


ALIASES = {"--gpus": ["--use-gpu", "--num-workers"], "--resume-from": ["--storage"]}
"""The users' flags in terms of ours; the last of a list takes the value."""


def with_environment(argv: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The flags of the environment's variables, then those given, which win; ALIASES apply."""
    flags = [
        f"{flag}={environment[name]}" for name, flag in ENVIRONMENT.items() if name in environment
    ]
    for argument in argv:
        name, equals, value = argument.partition("=")
        ours = ALIASES.get(name, [name])
        flags += [*ours[:-1], ours[-1] + equals + value]
    return flags


def run_identity(config: WaltzConfig, model: BaseModel, prompts: PromptSets) -> dict[str, Any]:
    """Everything that decides the agents."""
    fields = dataclasses.asdict(config)
    for name in FIELDS_SAFE_TO_CHANGE_ON_RESUME:
        del fields[name]
    return {"waltzrl": fields, "model": model.identity, "prompts": prompts.sha256}


def train_waltz(
    config: WaltzConfig, options: JobOptions, must_resume: bool = False
) -> dict[str, Any]:
    """Train, or go on training, both agents; Ray is initialised.

    Idempotent: a run that is whole is only summarised, an interrupted one goes on from its
    newest checkpoint, and a changed config, model or data starts anew; with `must_resume` that
    is a DataError which says what changed.

    Returns:
        The contract's summary; of stage 1 alone what its last check says of the feedback agent.
    """
    check_workers(config, options)
    prompts = check_and_read(config)
    storage, output = Store.open(options.storage_uri), Store.open(options.output_dir)
    model = prepare_model(config.model, MODEL_SEED, storage)
    identity = run_identity(config, model, prompts)
    if must_resume:
        check_resume(storage, identity)
    warn_of_new_start(storage, identity)
    about = {**identity, "stage": config.stage, **code_identity()}
    if is_complete(output, about):
        logger.info("waltz  %s is whole: nothing to do", output.uri)
        return summary(output, config.stage)
    drop_manifest(output)
    task = WaltzTask(
        config=config,
        model=model,
        prompts=prompts,
        checkpoints=checkpoint_store(storage, identity),
        output=output,
        cache_dir=cache_dir(options) / "models",
        price_cents_per_hour=options.price_cents_per_hour,
        identity={**identity, **code_identity()},
    )
    started_s = time.monotonic()
    fit_in_memory(lambda rung: _fit(rung, options), task)
    logger.info("waltz  trained in %s", clock_time(time.monotonic() - started_s))
    workers = f"{options.num_workers}, ZeRO {config.zero_stage}, {config.dtype}"
    write_report(config, prompts, workers, output)
    histories = output.read_json(STAGE_1_HISTORY if config.stage == "1" else HISTORY)
    write_manifest(output, {**about, "trained_by": trained_by(histories)}, result_names(config))
    return summary(output, config.stage)


def result_names(config: WaltzConfig) -> list[str]:
    """What a run of these stages leaves, for `write_manifest`: other files in its
    directory are not its own, or are an earlier run's."""
    if config.stage == "1":
        return [STAGE_1_HISTORY, STAGE_1_PAGE]
    compared = ["stage_1_feedback", *(["single_rl"] if config.single_steps else [])]
    return [
        *("report.html", "evaluation.json", "verdict.json", HISTORY),
        *(name for agent in AGENTS for name in (f"{agent}/", agent_file(agent))),
        *(f"{COMPARED}/{name}/" for name in compared),
    ]


def _fit(task: WaltzTask, options: JobOptions) -> None:
    with relay_lines() as board:
        fit(train_loop, {"waltz": task}, options, board)


def check_workers(config: WaltzConfig, options: JobOptions) -> None:
    """Refuse workers that would have nothing to do.

    Raises:
        ConfigError: there are more of them than prompts in a step.
    """
    most = options.worker_range[1]
    if most > config.batch_size:
        raise ConfigError(
            "num_workers",
            f"{most} workers share {config.batch_size} prompts a step (batch_size): some would "
            f"have none; give at most {config.batch_size}",
        )


def check_and_read(config: WaltzConfig) -> PromptSets:
    """Everything that can be refused before a model is touched; the run's prompts.

    Raises:
        ConfigError, DataError: in one line, what is wrong.
    """
    prompts = read_prompts(config)
    config.check_cadence(len(prompts.train))
    return prompts


def read_prompts(config: WaltzConfig) -> PromptSets:
    """As `check_and_read`, of a config whose steps and intervals are still to be chosen."""
    config.check_world()
    open_judge("train_judge", config.train_judge)
    open_judge("eval_judge", config.eval_judge)
    if config.rollout == "http":
        open_server("conversation_server", config.conversation_server or "")
        open_server("feedback_server", config.feedback_server or "")
    prompts = open_prompts(config)
    for warning in config.warnings():
        logger.warning("waltz  warning: %s", warning)
    logger.info("data   %s: %s", prompts.source, prompts.counts)
    return prompts


def summary(output: Store, stage: str) -> dict[str, Any]:
    """The numbers that stand for a training, of the test prompts; `kl` is the larger agent's."""
    if stage == "1":
        return _stage_1_summary(output.read_json(STAGE_1_HISTORY)["stage_1"])
    measured = output.read_json("evaluation.json")["waltzrl"]
    curves = output.read_json(HISTORY)["stage_2"]["curves"]
    names = ("asr", "orr", "asr_c0", "orr_c0", "ftr", "dir_repair", "label_balanced")
    return {
        **{name: measured[name]["value"] for name in names},
        "kl": max(curves["kl_conversation"][-1], curves["kl_feedback"][-1]),
        "repair_passed": repair_verdict(measured)["passed"],
        "steps": curves["steps"][-1],
    }


def _stage_1_summary(history: Mapping[str, Any]) -> dict[str, Any]:
    """Of held-out prompts, at the stage's end."""
    measured, curves = history["checks"][-1], history["curves"]
    names = ("asr", "orr", "ftr", "dir_repair", "label_balanced", "format_rate")
    return {
        **{name: measured[name]["value"] for name in names},
        "kl": curves["kl_feedback"][-1],
        "steps": curves["steps"][-1],
    }


def show_plan(config: WaltzConfig, options: JobOptions, plan: PlanOptions, as_json: bool) -> None:
    """What the run would do, hold and cost; starts nothing."""
    found = plan_run(config, options, plan, check_and_read(config))
    for line in plan_lines(config, found):
        logger.info("plan   %s", line)
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")


def main(argv: list[str]) -> None:
    """Run from the command line; see the module's docstring."""
    recipes = {
        name: (lambda r=recipe: (r(), JobOptions(output_dir="runs/waltz"), PlanOptions()))
        for name, recipe in RECIPES.items()
    }
    flags = with_environment(argv, os.environ)
    (config, options, plan), as_json = parse_recipe(flags, "ray_jobs.waltzrl.train", recipes)
    log_to_stdout()
    if plan.dry_run:
        show_plan(config, options, plan, as_json)
        return
    connect()
    must_resume = any(each.split("=")[0] == "--resume-from" for each in argv)
    result = train_waltz(config, options, must_resume)
    ray.shutdown()
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        known = ((name, value) for name, value in result.items() if value is not None)
        shown = "  ".join(f"{name} {value:.3g}" for name, value in known)
        logger.info("waltz  %s", shown)
        if config.model == WORLD:
            logger.info("waltz  of an invented world: says nothing about a real model's safety")
        logger.info("waltz  %s", Store.open(options.output_dir).uri)


if __name__ == "__main__":
    run_main(main)
