"""`SAEConfig`: everything that decides an SAE training, its recipes and its schedule."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from data.errors import ConfigError
from ray_jobs.fields import Count, Natural, Positive, Seed, Share, check_fields

EMBEDDED_HOST = "e5-small"
PROBE_METRICS = ("validation_f1", "probe_f1")
"""Rise with quality; measured where a training is given labelled tokens."""


@dataclass(frozen=True, kw_only=True)
class SAEConfig:
    """One run. The input width is the host model's, known when the run starts.

    Raises:
        ConfigError: a value out of its range, or two that do not fit; it names the field.
    """

    # Host model
    model: str = EMBEDDED_HOST
    """Host model whose activations are read: a Hugging Face name or a folder."""
    layer: Natural = 7
    """Hidden layer read, counted from 1 (0 is the embedding)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the host model: float32, or bfloat16, which takes half the memory."""

    # Autoencoder
    n_latents: Count = 3072
    """Latents of the autoencoder."""
    k: Count = 32
    """Latents active per token."""
    aux_k: Natural = 128
    """Dead latents that the auxiliary loss tries per token; 0 turns it off."""
    aux_weight: Share = 1 / 32
    """Weight of the auxiliary loss."""
    dead_after_tokens: Count = 200_000
    """Tokens, over all workers, without firing after which a latent is dead."""

    # SAE training
    epochs: Count = 4
    """Passes over the activations."""
    max_steps: Count | None = None
    """Steps after which the run ends even within its epochs; none for no limit."""
    batch_size: Count = 1024
    """Tokens per step, over all workers."""
    learning_rate: Positive = 2e-3
    """Peak of the cosine schedule, which ends at zero."""
    warmup_steps: Natural = 20
    """Steps of linear warm-up before the cosine."""
    clip_norm: Positive = 1.0
    """Largest norm of the whole gradient."""
    seed: Seed = 0
    """Decides initial weights and the order of the data."""
    enable_mixed_precision: bool | None = None
    """Encoder matmul in bf16, fp32 master weights; default: where the hardware has bf16."""

    # Evaluation and early stopping
    enable_early_stopping: bool = False
    """Stop when the metric stops improving."""
    early_stopping_patience: Count = 2
    """Evaluations without improvement before stopping."""
    early_stopping_threshold: Share = 0.01
    """Share of the best value by which an evaluation must be better to count."""
    early_stopping_metric: Literal["fvu", "loss", "validation_f1", "probe_f1"] = "fvu"
    """Metric watched: fvu or loss; in a sweep also validation_f1 or probe_f1."""
    eval_every_steps: Count = 50
    """Steps between evaluations."""

    # SAE checkpoints
    checkpoint_every_steps: Count = 100
    """Steps between checkpoints."""
    checkpoint_every_minutes: Positive = 10.0
    """Minutes after which a checkpoint is due even between those steps."""
    keep_checkpoints: Count = 2
    """Newest checkpoints kept; older ones are deleted."""

    # Activations
    window_shards: Count = 8
    """Shards that are shuffled together in memory."""
    shard_rows: Count = 8192
    """Tokens per activation shard."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.k > self.n_latents:
            raise ConfigError("k", f"{self.k} is more than n_latents ({self.n_latents})")
        if self.max_steps is not None and self.warmup_steps >= self.max_steps:
            raise ConfigError(
                "warmup_steps",
                f"{self.warmup_steps} leaves no step of max_steps ({self.max_steps})",
            )
        if not self.model.strip():
            raise ConfigError("model", "is empty: give a model's name or folder")


def demo() -> SAEConfig:
    """Layer 7 of multilingual-e5-small, a few hundred steps: about a minute on two cores."""
    return SAEConfig(k=64, max_steps=320)


def small() -> SAEConfig:
    """The same host with more latents and longer training: minutes on two cores."""
    return SAEConfig(
        n_latents=6144,
        k=64,
        epochs=6,
        max_steps=3000,
        warmup_steps=100,
        dead_after_tokens=500_000,
        checkpoint_every_steps=250,
        eval_every_steps=100,
    )


def llm() -> SAEConfig:
    """SmolLM2-135M's layer 12, Llama-shaped as `full` is: minutes on two cores."""
    return SAEConfig(model="smollm2-135m", layer=12, k=64, max_steps=320)


def full() -> SAEConfig:
    """Llama-3.1-8B, layer 12, 4096 -> 32768 latents: for GPUs."""
    return SAEConfig(
        model="meta-llama/Llama-3.1-8B",
        layer=12,
        dtype="bfloat16",
        n_latents=32768,
        k=64,
        aux_k=512,
        dead_after_tokens=10_000_000,
        epochs=3,
        batch_size=16384,
        learning_rate=1e-3,
        warmup_steps=1000,
        eval_every_steps=200,
        checkpoint_every_steps=1000,
        window_shards=16,
        shard_rows=65536,
    )


RECIPES: Mapping[str, Callable[[], SAEConfig]] = {
    "demo": demo,
    "small": small,
    "llm": llm,
    "full": full,
}


def planned_steps(config: SAEConfig, steps_per_epoch: int) -> int:
    """Optimizer steps of the whole plan."""
    total = config.epochs * steps_per_epoch
    return total if config.max_steps is None else min(total, config.max_steps)


def learning_rate_at(config: SAEConfig, step: int, total_steps: int) -> float:
    """Linear warm-up, then a cosine that reaches zero at `total_steps`; `step` counts from 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    through = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * through))
