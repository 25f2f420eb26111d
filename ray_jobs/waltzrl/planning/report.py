"""Dry-run report: a plan as lines of text."""

from collections.abc import Sequence
from typing import Any

from ray_jobs.waltzrl.config import SINGLE, WaltzConfig


def plan_lines(config: WaltzConfig, found: dict[str, Any]) -> Sequence[str]:
    """The plan of `dry_run.plan_run` in words, a line a subject."""
    memory = found["memory_bytes"]
    share = memory["peak"] / found["gpu_memory_bytes"]
    fits = "fits" if share <= 0.9 else "tight" if share <= 1 else "does NOT fit"
    stages = ", ".join(
        f"{'one model alone' if stage == str(SINGLE) else f'stage {stage}'} {steps}"
        for stage, steps in found["steps"].items()
    )
    shown = "  ".join(f"{name} {_gb(memory[name])}" for name in memory if name != "peak")
    peaks = ", ".join(
        f"{stage}: {_gb(peak)}" for stage, peak in found["peak_bytes_by_zero_stage"].items()
    )
    offload = ", optimizer in host memory" if config.offload_optimizer else ""
    return [
        f"steps     {stages} ({found['train_prompts']:,} prompts in batches of "
        f"{config.batch_size}, {config.epochs} epochs)",
        f"cadence   checkpoint every {config.checkpoint_every_steps} steps or "
        f"{config.checkpoint_every_minutes:g} minutes, validation every {config.eval_every_steps} "
        "steps, both at every stage's end",
        f"model     {found['parameters'] / 1e9:.3g} billion parameters; longest prompt "
        f"{found['longest_prompt_tokens']:,} tokens ({found['prompt_tokens_source']})",
        f"memory    of each of {found['workers']} workers, ZeRO {config.zero_stage}, "
        f"{config.dtype}{offload}, in GB: {shown}",
        f"peak      {_gb(memory['peak'])} GB of {_gb(found['gpu_memory_bytes'])} GB ({share:.0%}): "
        f"{fits}; by ZeRO stage {peaks}",
        "saves     checkpoints of {checkpoint} GB; a machine needs {memory} GB of host memory, and "
        "{disk} GB of disk to resume from one; up to {storage} GB are in the storage".format(
            **{name: _gb(size) for name, size in found["checkpoint_bytes"].items()}
        ),
        *_duration_lines(found),
    ]


def _duration_lines(found: dict[str, Any]) -> list[str]:
    if found["hours"] is None:
        return [
            "hours     not known: give --rollout-tokens-per-second and --train-tokens-per-second"
        ]
    lines = [
        f"hours     at most {found['hours']:.1f}, if every reply is as long as it may be "
        f"(rates {found['rates']}; the judge's time is not in it)"
    ]
    if found["cost_cents"] is None:
        return [*lines, "dollars   not known: give --price-cents-per-hour or --instance-type"]
    return [*lines, f"dollars   at most {found['cost_cents'] / 100:,.2f} ({found['price']})"]


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.3g}"
