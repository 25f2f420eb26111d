"""Options of the dry run and of the evaluation command, as their flags give them."""

from dataclasses import dataclass
from typing import Literal

from ray_jobs.fields import Count, Positive, check_fields


@dataclass(frozen=True)
class PlanOptions:
    """Flags of a dry run: what its plan cannot derive from the config."""

    # Dry run
    dry_run: bool = False
    """Print what the run would do, hold and cost, and start nothing."""
    gpu_memory_gb: Positive = 80.0
    """Memory of a GPU, to compare with."""
    instance_type: str | None = None
    """Lambda's machine, for its price; default: H100s for as many GPUs as --gpus."""
    rollout_tokens_per_second: Positive | None = None
    """Tokens that one worker generates a second; default: assumed for an H100."""
    train_tokens_per_second: Positive | None = None
    """Tokens that one worker takes through the network a second, forward."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class EvaluateOptions:
    """Agents, prompts and judge of an evaluation. None: the value of the run's config."""

    # Evaluation
    run_dir: str | None = None
    """Run directory of a finished training."""
    model: str | None = None
    """Without a run: a base model alone (a folder, a hub name, or waltz-world)."""
    data: str | None = None
    """Files with commas between, of the forms that a training takes, or waltz-world;
    default: the run's test prompts."""
    judge: str | None = None
    """rules, FORM@URL@MODEL or FORM@local:MODEL; default: the run's judge of held-out answers."""
    prompts: str | None = None
    """System prompts: world or instruct; default: the run's."""
    test_prompts: Count | None = None
    """Most prompts that are used; default: as many as the run tested on, of other files 600."""
    guard: str | None = None
    """Safeguard model of the row base_guard, of the judge's forms; default: the base model as an
    untrained feedback agent."""
    temperature: float | None = None
    """Of sampling; default: the run's."""
    max_answer_tokens: int | None = None
    """Longest answer; default: the run's."""
    max_feedback_tokens: int | None = None
    """Longest feedback; default: the run's."""
    rollout: Literal["hf", "cb"] = "hf"
    """Sampler: hf or cb."""
    seed: int = 0
    """Of samples and intervals."""
    output_dir: str = "runs/waltz-evaluation"
    """Where the results go."""

    def __post_init__(self) -> None:
        check_fields(self)
