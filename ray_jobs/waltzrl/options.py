"""Options of the dry run and of the evaluation command, as their flags give them."""

from dataclasses import dataclass

from data.errors import ConfigError


@dataclass(frozen=True)
class PlanOptions:
    """Flags of a dry run: what its plan cannot derive from the config."""

    dry_run: bool = False
    """Print what the run would do, hold and cost, and start nothing."""
    gpu_memory_gb: float = 80.0
    """Dry run: memory of a GPU, to compare with."""
    instance_type: str | None = None
    """Dry run: Lambda's machine, for its price; default: H100s for as many GPUs as --gpus."""
    rollout_tokens_per_second: float | None = None
    """Dry run: tokens that one worker generates a second; default: assumed for an H100."""
    train_tokens_per_second: float | None = None
    """Dry run: tokens that one worker takes through the network a second, forward."""

    def __post_init__(self) -> None:
        for name in ("gpu_memory_gb", "rollout_tokens_per_second", "train_tokens_per_second"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(name, f"{value} is not a positive number")


@dataclass(frozen=True)
class EvaluateOptions:
    """Agents, prompts and judge of an evaluation. None: the value of the run's config."""

    run_dir: str | None = None
    """Run directory of a finished training."""
    model: str | None = None
    """Without a run: a base model alone (a folder, a hub name, or waltz-world)."""
    data: str | None = None
    """Files with commas between, of the forms that a training takes; or waltz-world."""
    judge: str | None = None
    """rules, FORM@URL@MODEL or FORM@local:MODEL; default: the run's judge of held-out answers."""
    prompts: str | None = None
    """System prompts: world or instruct."""
    test_prompts: int | None = None
    """Most prompts that are used; default: as many as the run tested on, of other files 600."""
    guard: str | None = None
    """Safeguard model of the row base_guard, of the judge's forms; default: the base model as an
    untrained feedback agent."""
    temperature: float | None = None
    """Of sampling."""
    max_answer_tokens: int | None = None
    """Longest answer."""
    max_feedback_tokens: int | None = None
    """Longest feedback."""
    rollout: str = "hf"
    """Sampler: hf or cb."""
    seed: int = 0
    """Of samples and intervals."""
    output_dir: str = "runs/waltz-evaluation"
    """Where the results go."""

    def __post_init__(self) -> None:
        if self.test_prompts is not None and self.test_prompts < 1:
            raise ConfigError("test_prompts", f"{self.test_prompts} is not at least 1")
        if self.rollout not in ("hf", "cb"):
            raise ConfigError("rollout", f"{self.rollout!r} is not one of hf, cb")
