"""Dry run: what a run would do, hold and cost, before a model is loaded or a GPU touched."""

import difflib
from dataclasses import asdict, dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from autoscaler.lambda_cloud.prices import price_list
from data.errors import ConfigError
from ray_jobs.runtime.options import JobOptions
from ray_jobs.waltzrl.config import SINGLE, WORLD, WaltzConfig
from ray_jobs.waltzrl.datasets.splits import PromptSets
from ray_jobs.waltzrl.evaluation.rows import TITLES
from ray_jobs.waltzrl.judges.local import PREFIX
from ray_jobs.waltzrl.models.base import open_tokenizer
from ray_jobs.waltzrl.models.world import WorldModelSize, build_tokenizer, world_config
from ray_jobs.waltzrl.options import PlanOptions
from ray_jobs.waltzrl.planning.cost import (
    Rates,
    Work,
    assumed_rates,
    checkpoint_plan,
    cost_cents,
    hours,
)
from ray_jobs.waltzrl.planning.memory import (
    MemoryPlan,
    ModelShape,
    Setting,
    find_config,
    memory_plan,
    shape_of_config,
    shape_of_folder,
)
from ray_jobs.waltzrl.rollout.dialogue import TEMPLATES
from ray_jobs.waltzrl.rollout.hf import BUCKET_ROWS

CHARACTERS_PER_TOKEN = 3
"""Of English under a tokenizer that is not at hand; texts have four or more, code fewer."""


@dataclass(frozen=True)
class Machine:
    """A row of the shipped price list."""

    name: str
    price_cents_per_hour: int
    gpus: int


def plan_run(
    config: WaltzConfig, options: JobOptions, plan: PlanOptions, prompts: PromptSets
) -> dict[str, Any]:
    """The plan as plain data; `report.plan_lines` puts it into words.

    Raises:
        DataError: the model's shape is not known here.
        ConfigError: no such instance type.
    """
    shape, tokenizer = _model(config)
    longest, how = _longest_prompt(config, prompts, tokenizer)
    workers = options.worker_range[1]
    setting = _setting(config, shape, workers, longest, bool(options.use_gpu))
    memory = memory_plan(setting)
    work = _work(config, prompts, longest)
    rates = _rates(plan, options, setting)
    machine = _machine(plan, options)
    together = workers if machine is None else min(workers, machine.gpus)
    agents = 2 if 2 in config.stages else 1
    kept = checkpoint_plan(setting, memory, agents, together, config.keep_checkpoints)
    return {
        "steps": {str(stage): steps for stage, steps in work.steps.items()},
        "train_prompts": len(prompts.train),
        "checkpoint_every_steps": config.checkpoint_every_steps,
        "checkpoint_every_minutes": config.checkpoint_every_minutes,
        "validate_every_steps": config.eval_every_steps,
        "parameters": shape.parameters,
        "longest_prompt_tokens": longest,
        "prompt_tokens_source": how,
        "workers": workers,
        "memory_bytes": _parts(memory),
        "peak_bytes_by_zero_stage": {
            str(stage): memory_plan(replace(setting, zero_stage=stage)).peak
            for stage in range(4)
            if stage > 0 or config.dtype == "float32"
        },
        "gpu_memory_bytes": round(plan.gpu_memory_gb * 1e9),
        "checkpoint_bytes": asdict(kept),
        **_duration(work, rates, workers, machine, options),
    }


def _parts(memory: MemoryPlan) -> dict[str, int]:
    names = ("weights", "gradients", "optimizer", "references", "judges")
    found = {name: getattr(memory, name) for name in names}
    return found | {
        "gathered": memory.gathered,
        "kv_cache": memory.kv_cache,
        "rollout_work": memory.rollout_work,
        "activations": memory.activations,
        "logits": memory.logits,
        "update": memory.update,
        "peak": memory.peak,
        "host": memory.host,
    }


def _duration(
    work: Work,
    rates: Rates | None,
    workers: int,
    machine: Machine | None,
    options: JobOptions,
) -> dict[str, Any]:
    found: dict[str, Any] = {"generated_tokens": work.generated, "hours": None, "cost_cents": None}
    if rates is None:
        return found
    found |= {"hours": hours(work, rates, workers), "rates": rates.source}
    if options.price_cents_per_hour is not None:
        found["price"] = f"${options.price_cents_per_hour / 100:.2f} an hour, as given"
        found["cost_cents"] = cost_cents(found["hours"], options.price_cents_per_hour, 1)
    elif machine is not None:
        price, number = machine.price_cents_per_hour, -(-workers // machine.gpus)
        found["price"] = (
            f"{number} x {machine.name} at ${price / 100:.2f} an hour (shipped price list)"
        )
        found["cost_cents"] = cost_cents(found["hours"], price, number)
    return found


def _model(config: WaltzConfig) -> tuple[ModelShape, PreTrainedTokenizerBase | None]:
    if config.model == WORLD:
        tokenizer = build_tokenizer()
        return shape_of_config(world_config(WorldModelSize(), tokenizer)), tokenizer
    folder = find_config(config.model)
    known = (folder / "tokenizer.json").is_file()
    return shape_of_folder(folder), open_tokenizer(folder) if known else None


def _longest_prompt(
    config: WaltzConfig, prompts: PromptSets, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[int, str]:
    """(tokens of the longest prompt with its system prompt, how they were counted)."""
    templates = TEMPLATES[config.prompts]
    longest = max((prompt.text for prompt in prompts.train), key=len)
    messages = templates.feedback_messages(longest, "")
    if tokenizer is None:
        characters = sum(len(message["content"]) for message in messages)
        how = f"assumed {CHARACTERS_PER_TOKEN} characters a token: no tokenizer here"
        return -(-characters // CHARACTERS_PER_TOKEN), how
    text = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    return len(tokenizer(text, add_special_tokens=False)["input_ids"]), "counted"


def _judge_bytes(config: WaltzConfig, on_gpu: bool) -> int:
    """Of every different judge model that runs on the workers."""
    names = {each.partition("@")[2] for each in (config.train_judge, config.eval_judge)}
    models = [name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)]
    shapes = [shape_of_folder(find_config(model)) for model in models]
    return sum((2 if on_gpu else 4) * shape.parameters for shape in shapes)


def _setting(
    config: WaltzConfig, shape: ModelShape, workers: int, longest: int, on_gpu: bool
) -> Setting:
    rows = -(-config.batch_size // workers)
    parts = min(config.gradient_accumulation, rows)
    both = 2 in config.stages
    return Setting(
        shape=shape,
        workers=workers,
        zero_stage=config.zero_stage,
        weight_bytes=2 if config.dtype == "bfloat16" else 4,
        offload_optimizer=config.offload_optimizer,
        checkpointing=config.gradient_checkpointing,
        trained_agents=1 + both + (both and config.single_steps > 0),
        frozen_agents=1 + both,
        part_rows=-(-rows // parts),
        parts=parts,
        rollout_rows=0 if config.rollout == "http" else min(rows, BUCKET_ROWS),
        prompt_tokens=longest
        + config.max_rounds * (config.max_answer_tokens + config.max_feedback_tokens),
        action_tokens=max(config.max_answer_tokens, config.max_feedback_tokens),
        judge_bytes=_judge_bytes(config, on_gpu),
    )


def _work(config: WaltzConfig, prompts: PromptSets, longest: int) -> Work:
    stages = list(config.stages)
    if config.single_steps and 2 in stages:
        stages.append(SINGLE)
    steps = {stage: config.planned_steps(stage, len(prompts.train)) for stage in stages}
    checks = sum(-(-each // config.eval_every_steps) for each in steps.values())
    rows = len(TITLES) if 2 in stages else 0
    return Work(
        steps=steps,
        batch_size=config.batch_size,
        answer_tokens=config.max_answer_tokens,
        feedback_tokens=config.max_feedback_tokens,
        rounds=config.max_rounds,
        prompt_tokens=longest,
        held_out_dialogues=checks * len(prompts.validation) + rows * len(prompts.test),
        checkpointing=config.gradient_checkpointing,
    )


def _rates(plan: PlanOptions, options: JobOptions, setting: Setting) -> Rates | None:
    """The given rates, or those assumed for a GPU; none for a CPU or a server."""
    given = (plan.rollout_tokens_per_second, plan.train_tokens_per_second)
    if given[0] is not None and given[1] is not None:
        return Rates(*given, source="as given")
    elsewhere = given[0] is None and setting.rollout_rows == 0  # a server of unknown speed
    if elsewhere or not options.use_gpu:
        return None
    shape = setting.shape
    rows = max(1, setting.rollout_rows)
    assumed = assumed_rates(shape.parameters, setting.weight_bytes, rows)
    return Rates(given[0] or assumed.rollout, given[1] or assumed.passes, assumed.source)


def _machine(plan: PlanOptions, options: JobOptions) -> Machine | None:
    """The machine that is asked for, from the shipped price list; None for CPUs without a name.

    Raises:
        ConfigError: it lists no such type.
    """
    types = price_list().types
    name = plan.instance_type
    if name is None:
        if not options.use_gpu:
            return None
        sizes = (1, 2, 4, 8)
        fitting = next((size for size in sizes if size >= options.worker_range[1]), sizes[-1])
        name = f"gpu_{fitting}x_h100_sxm5"
    if name not in types:
        close = difflib.get_close_matches(name, types, n=3, cutoff=0.4) or sorted(types)[:3]
        raise ConfigError(
            "instance_type", f"no {name!r} in the price list; it has {', '.join(close)}, ..."
        )
    found = types[name]
    return Machine(name, found.price_cents_per_hour, max(1, found.gpus))
