"""An evaluation of a finished WaltzRL run, or of a base model alone, in one process.

The command line is `evaluate.py`.
"""

import logging
import random
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from data.errors import ConfigError, DataError
from data.storage import Store
from ray_jobs.cli import ALIASES
from ray_jobs.results.run_directory import fetch, read_manifest
from ray_jobs.runtime.fit import WorkerContext
from ray_jobs.waltzrl.config import WORLD, WaltzConfig
from ray_jobs.waltzrl.datasets.prompts import Prompt, read_prompt_file
from ray_jobs.waltzrl.datasets.splits import group_near_duplicates, open_prompts
from ray_jobs.waltzrl.evaluation.metrics import repair_verdict
from ray_jobs.waltzrl.evaluation.report import render_evaluation
from ray_jobs.waltzrl.evaluation.rows import Evaluator, Rows
from ray_jobs.waltzrl.job import MODEL_SEED
from ray_jobs.waltzrl.judges.judges import open_judge
from ray_jobs.waltzrl.models.base import ModelCache, load_tokenizer, model_folder, prepare_model
from ray_jobs.waltzrl.options import EvaluateOptions
from ray_jobs.waltzrl.recipes import RECIPES
from ray_jobs.waltzrl.rollout.dialogue import TEMPLATES, Sampler
from ray_jobs.waltzrl.rollout.samplers import SamplerFactory
from ray_jobs.waltzrl.training.export import COMPARED

logger = logging.getLogger(__name__)

OTHER_PROMPTS = 600
EVALUATION = 1003
"""Takes the place of a stage's number in the seeds of samples."""
FOLDERS = {
    "conversation": "conversation",
    "feedback": "feedback",
    "stage_1_feedback": f"{COMPARED}/stage_1_feedback",
    "single_rl": f"{COMPARED}/single_rl",
}
"""Where a run's export has the agents of `Evaluator.rows`."""


def evaluate(options: EvaluateOptions) -> Rows:
    """The rows; writes `evaluation.json` and `report.html` into the output directory.

    Raises:
        ConfigError, DataError, StorageError: in one line, what is wrong.
    """
    if (options.run_dir is None) == (options.model is None):
        raise ConfigError(
            "run_dir", "give --run-dir DIRECTORY, or --model NAME for a base model alone"
        )
    manifest = _manifest(options.run_dir)
    config = config_of(options, manifest)
    judge = open_judge("judge", config.eval_judge)
    safeguard = None if options.guard is None else open_judge("guard", options.guard)
    prompts, about = prompts_of(options, config)
    output = Store.open(options.output_dir)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="waltz-evaluation-") as scratch:
        base, trained = _folders(options, config, manifest, output, Path(scratch))
        base_pair, samplers = _samplers(config, base, trained, device)
        worker = WorkerContext(0, 1, device, lambda metrics: None)
        evaluator = Evaluator(
            prompts, TEMPLATES[config.prompts], judge, worker, config.max_rounds, config.seed
        )
        rows = evaluator.rows(base_pair, samplers, safeguard)
    facts = {
        "base model": config.model,
        "trained agents": options.run_dir or "none",
        "prompts": about,
        "judge": config.eval_judge,
        "safeguard": options.guard or "the base model as an untrained feedback agent",
    }
    output.write_json("evaluation.json", rows)
    if "waltzrl" in rows:
        output.write_json("verdict.json", repair_verdict(rows["waltzrl"]))
    note = _note(config, manifest)
    output.write_bytes("report.html", render_evaluation(facts, rows, note).encode())
    logger.info("waltz  %s: %s", config.model, f"{about}. {note}".strip())
    return rows


def _manifest(run: str | None) -> dict[str, Any] | None:
    if run is None:
        return None
    store = Store.open(run)
    about = read_manifest(store).run
    if "waltzrl" not in about:
        raise DataError(f"{store.label}: not a WaltzRL run; give the directory of one")
    return about


def config_of(options: EvaluateOptions, manifest: dict[str, Any] | None) -> WaltzConfig:
    """The run's config, or a default one for the base model, with the options' own values.

    Raises:
        ConfigError: values that do not fit.
    """
    if manifest is None:
        config = RECIPES["toy" if options.model == WORLD else "llama8b"]()
        config = replace(config, model=str(options.model))
    else:
        known = {field.name for field in fields(WaltzConfig)}
        recorded = {ALIASES.get(name, name): v for name, v in manifest["waltzrl"].items()}
        had = {name: v for name, v in recorded.items() if name in known}
        had |= {"conversation_server": None, "feedback_server": None, "rollout": "hf"}
        had["dtype"] = "float32"  # of the training; here it goes by the device
        config = WaltzConfig(**had)
    names = ("data", "prompts", "temperature", "max_answer_tokens", "max_feedback_tokens")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    given |= {"rollout": options.rollout, "seed": options.seed}
    if options.judge is not None:
        given["eval_judge"] = options.judge
    config = replace(config, **given)
    if config.data != WORLD and config.eval_judge == "rules":
        raise ConfigError("judge", "rules knows the embedded world only; give FORM@URL@MODEL")
    if config.data == WORLD and config.prompts != "world":
        raise ConfigError("data", f"{WORLD} is of no use to a real model; give files")
    return config


def prompts_of(options: EvaluateOptions, config: WaltzConfig) -> tuple[list[Prompt], str]:
    """The prompts, and what they are.

    Raises:
        DataError: a file is wrong, or no prompt is left; ConfigError: too many are asked for.
    """
    if options.data is None or options.data == WORLD:
        sets = open_prompts(
            replace(config, test_prompts=options.test_prompts or config.test_prompts)
        )
        return list(sets.test), f"test split of {sets.source}"
    names = [name.strip() for name in options.data.split(",") if name.strip()]
    found = list(dict.fromkeys(p for name in names for p in read_prompt_file(name)))
    left = _not_trained_on(options, found)
    if not left:
        raise DataError(f"{options.data}: every prompt was trained on; give others")
    number = min(len(left), options.test_prompts or OTHER_PROMPTS)
    chosen = random.Random(0).sample(left, number)
    gone = len(found) - len(left)
    return chosen, (
        f"{options.data}: {len(chosen):,} of {len(left):,} prompts"
        + (f"; {gone:,} near duplicates of training prompts are left out" if gone else "")
    )


def _not_trained_on(options: EvaluateOptions, found: list[Prompt]) -> list[Prompt]:
    """Without near duplicates of the run's training prompts."""
    manifest = _manifest(options.run_dir)
    if manifest is None:
        return found
    own = config_of(replace(options, data=None), manifest)
    try:
        trained = [prompt.text for prompt in open_prompts(own).train]
    except DataError as error:
        logger.warning("waltz  the run's training prompts are not here to compare: %s", error)
        return found
    groups = group_near_duplicates([*trained, *(prompt.text for prompt in found)])
    seen = set(groups[: len(trained)])
    pairs = zip(found, groups[len(trained) :], strict=True)
    return [prompt for prompt, group in pairs if group not in seen]


def _folders(
    options: EvaluateOptions,
    config: WaltzConfig,
    manifest: dict[str, Any] | None,
    output: Store,
    scratch: Path,
) -> tuple[Path, dict[str, Path]]:
    """(base model, trained agents by name) as local folders, each file verified."""
    base = prepare_model(
        config.model, MODEL_SEED, Store.open(options.run_dir or options.output_dir)
    )
    if manifest is not None and manifest["model"] != base.identity:
        raise DataError(
            f"{config.model}: not the base model that {options.run_dir} was trained from"
        )
    folder = model_folder(base, scratch / "base")
    if options.run_dir is None:
        return folder, {}
    run = Store.open(options.run_dir)
    listed = read_manifest(run).files
    trained = {}
    for name, place in FOLDERS.items():
        if any(each.startswith(place + "/") for each in listed):
            fetch(run, [place + "/"], scratch / "run")
            trained[name] = scratch / "run" / place
    return folder, trained


def _samplers(
    config: WaltzConfig, base: Path, trained: dict[str, Path], device: torch.device
) -> tuple[tuple[Sampler, Sampler], dict[str, Sampler]]:
    """(base model as conversation and as feedback agent, trained agents by name)."""
    models, samplers = ModelCache(device), SamplerFactory(config, load_tokenizer(base))
    seed = (config.seed, EVALUATION, 0)
    base_agent = models.agent(base)
    found = {}
    for name, folder in trained.items():
        sampler = samplers.feedbacks if name.endswith("feedback") else samplers.answers
        found[name] = sampler(models.agent(folder), seed)
    return (samplers.answers(base_agent, seed), samplers.feedbacks(base_agent, seed)), found


def _note(config: WaltzConfig, manifest: dict[str, Any] | None) -> str:
    notes = []
    if manifest is not None and config.train_judge == config.eval_judge:
        notes.append("The judge also gave the training's rewards.")
    if config.data == WORLD:
        notes.append("The world is invented: the figures say nothing about a real model's safety.")
    return " ".join(notes)
