"""Recipes: named `WaltzConfig`s for the embedded world and for Llama-3.1-8B."""

from collections.abc import Callable, Mapping

from ray_jobs.waltzrl.config import WaltzConfig


def toy() -> WaltzConfig:
    """The embedded world and its small model: under two minutes on one core."""
    return WaltzConfig(
        stage1_steps=60,
        max_steps=110,
        learning_rate=1.5e-3,
        warmup_steps=5,
        final_learning_rate_share=0.1,
        max_answer_tokens=12,
        max_feedback_tokens=26,
        checkpoint_every_steps=35,
        eval_every_steps=35,
    )


def demo() -> WaltzConfig:
    """The embedded world, longer, two workers and ZeRO 2: minutes on two cores."""
    return WaltzConfig(
        stage1_steps=150,
        max_steps=300,
        single_steps=300,
        batch_size=64,
        learning_rate=1e-3,
        warmup_steps=10,
        final_learning_rate_share=0.1,
        max_answer_tokens=12,
        max_feedback_tokens=26,
        zero_stage=2,
        checkpoint_every_steps=50,
        eval_every_steps=50,
        test_prompts=1100,
    )


def llama8b() -> WaltzConfig:
    """Llama-3.1-8B-Instruct for both agents, ZeRO 3 in bf16: for 8 H100.

    Needs --data (the paper: WildJailbreak and OR-Bench), --train-judge and --eval-judge.
    """
    return WaltzConfig(
        model="meta-llama/Llama-3.1-8B-Instruct",
        prompts="instruct",
        rollout="cb",
        batch_size=256,
        gradient_accumulation=32,
        stage1_steps=58,
        zero_stage=3,
        dtype="bfloat16",
        gradient_checkpointing=True,
        checkpoint_every_steps=50,
        eval_every_steps=50,
        validation_prompts=501,
    )


RECIPES: Mapping[str, Callable[[], WaltzConfig]] = {"toy": toy, "demo": demo, "llama8b": llama8b}
