"""`ProbeConfig`: how PII classifiers are trained; `HostConfig`: on which SAE and host model."""

from dataclasses import dataclass

from ray_jobs.fields import Count, Natural, Positive, Weight, check_fields


@dataclass(frozen=True)
class Descent:
    """AdamW's settings. An epsilon well above the gradients' size turns it into plain momentum,
    which keeps the weights of rarely active inputs small."""

    learning_rate: float
    weight_decay: float
    epsilon: float


@dataclass(frozen=True)
class ProbeConfig:
    """How token probes are trained.

    All is the same for latents and raw activations but the descent: thousands of sparse inputs
    and a few hundred dense ones want other steps and another decay. The defaults come from a
    search by hand on built-in texts, not from one grid over both.
    """

    # PII classifiers (probes)
    window: Natural = 1
    """Neighbours on each side whose features a token's probe reads as well."""
    epochs: Count = 4
    """Passes over the training documents."""
    batch_tokens: Count = 4096
    """Padded tokens in a step, at most."""
    latents_learning_rate: Positive = 0.05
    """Peak of AdamW's one-cycle schedule, on latents."""
    latents_weight_decay: Weight = 0.5
    """AdamW's decay of the weights on latents."""
    latents_epsilon: Positive = 1e-3
    """AdamW's epsilon, on latents."""
    raw_learning_rate: Positive = 0.01
    """Peak of AdamW's one-cycle schedule, on raw activations."""
    raw_weight_decay: Weight = 4.0
    """AdamW's decay of the weights on raw activations."""
    raw_epsilon: Positive = 1e-8
    """AdamW's epsilon, on raw activations."""
    recall_weight: Positive = 1.0
    """Beta of the F-score that the threshold maximises: above 1 prefers recall."""
    seed: int = 0
    """Seed of the order of batches and of the bootstrap."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def latents(self) -> Descent:
        """The descent of a probe on latents."""
        return Descent(self.latents_learning_rate, self.latents_weight_decay, self.latents_epsilon)

    @property
    def raw(self) -> Descent:
        """The descent of a probe on raw activations."""
        return Descent(self.raw_learning_rate, self.raw_weight_decay, self.raw_epsilon)


@dataclass(frozen=True)
class HostConfig:
    """What the command line needs besides the probes' and the data's settings."""

    # SAE and host model
    sae: str = ""
    """The `sae_final.pt` of a run on the same host model and layer; required."""
    output_dir: str = ""
    """Directory or bucket for the classifiers, their scores and a copy of the SAE;
    required."""
    cache_dir: str = "runs/cache"
    """Where the built-in texts are kept."""
    model: str = "e5-small"
    """Host model: a Hugging Face name or a folder."""
    layer: Count = 7
    """Layer of the host model that the SAE was trained on."""
    dtype: str = "float32"
    """Of the host model: float32 or bfloat16."""
    device: str = "cpu"
    """Where the host model runs."""

    def __post_init__(self) -> None:
        check_fields(self)
