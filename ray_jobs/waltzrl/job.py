"""Training job of WaltzRL: checks, Ray Train, report, manifest."""

import dataclasses
import logging
import time
from collections.abc import Mapping
from typing import Any

from data.errors import ConfigError
from data.storage import Store
from ray_jobs.activations.prepare import cache_dir
from ray_jobs.results.history import HISTORY, STAGE_1_HISTORY, trained_by
from ray_jobs.results.run_directory import code_identity, drop_manifest, is_complete, write_manifest
from ray_jobs.runtime.fit import fit
from ray_jobs.runtime.options import JobOptions
from ray_jobs.runtime.progress import clock_time, relay_lines
from ray_jobs.waltzrl.config import WaltzConfig
from ray_jobs.waltzrl.datasets.splits import PromptSets, open_prompts
from ray_jobs.waltzrl.evaluation.metrics import repair_verdict
from ray_jobs.waltzrl.evaluation.report import STAGE_1_PAGE, write_report
from ray_jobs.waltzrl.judges.judges import open_judge
from ray_jobs.waltzrl.models.base import BaseModel, prepare_model
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

logger = logging.getLogger(__name__)

MODEL_SEED = 0
"""Seed of the embedded base model: every run of the embedded world starts from the same one."""

FIELDS_SAFE_TO_CHANGE_ON_RESUME = (
    "stage",
    "allow_leak",
    "gradient_accumulation",
    "zero_stage",
    "offload_optimizer",
    "gradient_checkpointing",
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
    "keep_checkpoints",
    "conversation_server",
    "feedback_server",
)
"""Fields that may change between two starts of one training: they decide nothing but rounding, or
are in the data's own digest."""


def run_identity(config: WaltzConfig, model: BaseModel, prompts: PromptSets) -> dict[str, Any]:
    """What decides the trained agents: config, base model and prompts. Checkpoints lie below its
    digest (`training.restarts`)."""
    fields = dataclasses.asdict(config)
    for name in FIELDS_SAFE_TO_CHANGE_ON_RESUME:
        del fields[name]
    return {"waltzrl": fields, "model": model.identity, "prompts": prompts.sha256}


def train_waltz(
    config: WaltzConfig, options: JobOptions, must_resume: bool = False
) -> dict[str, Any]:
    """Train, or resume training, both agents; Ray is initialised.

    Idempotent: a complete run is only summarised, an interrupted one resumes from its newest
    checkpoint, and a changed config, model or data starts from the beginning; with `must_resume`
    that is a DataError which says what changed.

    Returns:
        See `summary`.
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
        logger.info("waltz  %s: already complete", output.uri)
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
    fit_in_memory(lambda smaller: _fit(smaller, options), task)
    logger.info("waltz  trained in %s", clock_time(time.monotonic() - started_s))
    workers = f"{options.num_workers}, ZeRO {config.zero_stage}, {config.dtype}"
    write_report(config, prompts, workers, output)
    histories = output.read_json(STAGE_1_HISTORY if config.stage == "1" else HISTORY)
    write_manifest(output, {**about, "trained_by": trained_by(histories)}, result_names(config))
    return summary(output, config.stage)


def result_names(config: WaltzConfig) -> list[str]:
    """Files that a run of these stages writes, for `write_manifest`: others in its directory are
    not its own, or an earlier run's."""
    if config.stage == "1":
        return [STAGE_1_HISTORY, STAGE_1_PAGE]
    compared = ["stage_1_feedback", *(["single_rl"] if config.single_steps else [])]
    return [
        *("report.html", "evaluation.json", "verdict.json", HISTORY),
        *(name for agent in AGENTS for name in (f"{agent}/", agent_file(agent))),
        *(f"{COMPARED}/{name}/" for name in compared),
    ]


def _fit(task: WaltzTask, options: JobOptions) -> None:
    with relay_lines() as relay:
        fit(train_loop, {"waltz": task}, options, relay)


def check_workers(config: WaltzConfig, options: JobOptions) -> None:
    """Refuse workers that would have nothing to do.

    Raises:
        ConfigError: there are more of them than prompts in a step.
    """
    workers = options.worker_range[1]
    if workers > config.batch_size:
        raise ConfigError(
            "num_workers",
            f"{workers} workers share {config.batch_size} prompts a step (batch_size): some would "
            f"have none; give at most {config.batch_size}",
        )


def check_and_read(config: WaltzConfig) -> PromptSets:
    """The run's prompts, after every check that needs no model.

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
    """The main numbers of a training, on the test prompts; of stage 1 alone on the held-out prompts
    of its last check. `kl` is that of the agent with the larger one."""
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
    measured, curves = history["checks"][-1], history["curves"]
    names = ("asr", "orr", "ftr", "dir_repair", "label_balanced", "format_rate")
    return {
        **{name: measured[name]["value"] for name in names},
        "kl": curves["kl_feedback"][-1],
        "steps": curves["steps"][-1],
    }
