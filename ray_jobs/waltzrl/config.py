"""`WaltzConfig`: everything that decides a WaltzRL run, checked field by field."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from data.errors import ConfigError
from data.files import check_local_files
from ray_jobs.fields import Count, Natural, Positive, Seed, Share, Weight, check_fields

WORLD = "waltz-world"
"""Name of the embedded text world and of its base model."""

PAPER_LEARNING_RATE = 5e-7
"""As a public reimplementation cites it; the paper's appendix is not public as text."""

SINGLE = 3
"""Number of the stage that trains one model without feedback."""

Prompts = Annotated[int, Field(ge=3)]
"""At least one of each kind."""


@dataclass(frozen=True, kw_only=True)
class WaltzConfig:
    """One run; symbols are those of arXiv 2510.08240.

    Raises:
        ConfigError: a value out of its range, or two that do not fit; it names the field.
    """

    # Models, prompts and stages
    model: str = WORLD
    """Model both agents start from: waltz-world (embedded), a Hugging Face name or a folder."""
    data: str = WORLD
    """Prompts: waltz-world (embedded), or files with commas between: WildJailbreak, OR-Bench,
    XSTest, HarmBench or StrongREJECT as published, or JSONL with prompt and expected_category."""
    test_data: str | None = None
    """Files with the test prompts, and no others; default: a share of the dataset."""
    allow_leak: bool = False
    """Train although test prompts are near duplicates of training prompts."""
    prompts: Literal["world", "instruct"] = "world"
    """System prompts: world, or instruct for real chat models."""
    stage: Literal["1", "2", "both"] = "both"
    """1 (feedback agent alone), 2 (both agents, from a stage 1 of this run directory), both."""

    # WaltzRL training
    epochs: Count = 5
    """Stage 2: passes over the training prompts."""
    max_steps: Count | None = None
    """Stage 2: steps after which it ends even within its epochs; none for no limit."""
    stage1_steps: Count = 100
    """Stage 1: optimizer steps."""
    single_steps: Natural = 0
    """Steps of one model trained without feedback, to compare with; 0 leaves it out."""
    batch_size: Count = 32
    """Prompts per optimizer step, over all workers."""
    gradient_accumulation: Count = 1
    """Parts in which a worker computes its share of a step."""
    learning_rate: Positive = 5e-7
    """Of both agents, after the warm-up."""
    warmup_steps: Natural = 0
    """Steps of linear warm-up in each stage."""
    final_learning_rate_share: Share = 1.0
    """What is left of the learning rate at a stage's end, falling linearly from the warm-up on; 1
    keeps it constant."""
    clip_norm: Positive = 1.0
    """Largest norm of an agent's gradient."""
    updates_per_rollout: Count = 1
    """Optimizer steps on the same dialogues."""
    seed: Seed = 0
    """Decides order of prompts, sampling and the choice of samples."""

    # Rewards and loss
    max_rounds: Annotated[int, Field(ge=1, le=8)] = 1
    """T_max: feedback rounds per dialogue."""
    alpha: Weight = 0.65
    """Weight of the improvement times label reward."""
    lambda_stage1: Weight = 0.65
    """Weight of the label reward in stage 1; in stage 2 it is 0."""
    gamma: Weight = 0.1
    """Weight of the format reward."""
    beta: Weight = 0.01
    """Weight of the KL penalty."""
    epsilon: Positive = 0.2
    """Clipping range of the probability ratio."""
    importance_cap: Annotated[float, Field(ge=1)] = 2.0
    """Largest weight that corrects for a sampler whose arithmetic differs."""

    # Sampling
    temperature: Positive = 1.0
    """Of sampling, in training and evaluation."""
    max_answer_tokens: Count = 512
    """Longest answer of the conversation agent."""
    max_feedback_tokens: Count = 512
    """Longest feedback."""
    rollout: Literal["hf", "cb", "http"] = "hf"
    """Sampler: hf (transformers' generate), cb (its continuous batching, for GPUs; not
    repeatable) or http (a vLLM or SGLang server for each agent)."""
    conversation_server: str | None = None
    """With http: the conversation agent's server, vllm@URL@FOLDER or sglang@URL@FOLDER; the run
    overwrites FOLDER/model.safetensors, which the server serves."""
    feedback_server: str | None = None
    """With http: the feedback agent's server, of the same form."""

    # Judges
    train_judge: str = "rules"
    """Judge of the rewards: rules (of the embedded world), FORM@URL@MODEL (a server) or
    FORM@local:MODEL (on the workers); FORM is wildguard or llama-guard."""
    eval_judge: str = "rules"
    """Judge of held-out answers; one that gave no reward, for figures that mean something."""

    # Memory and precision
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage of the trained agents."""
    offload_optimizer: bool = False
    """Keep optimizer states in host memory."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights in forward and backward: float32 or bfloat16; masters are float32."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass, for memory."""

    # WaltzRL checkpoints
    checkpoint_every_steps: Count = 50
    """Steps between checkpoints."""
    checkpoint_every_minutes: Positive = 10.0
    """Minutes after which a checkpoint is due even between those steps."""
    keep_checkpoints: Count = 2
    """Newest checkpoints kept; older ones are deleted."""
    eval_every_steps: Count = 50
    """Steps between validations."""
    validation_prompts: Prompts = 200
    """Held-out prompts of a validation, an equal number of each kind."""
    test_prompts: Prompts = 600
    """Held-out prompts of the final evaluation, an equal number of each kind."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.model.strip():
            raise ConfigError("model", "is empty: give a model's name or folder")
        if self.zero_stage == 0 and self.dtype == "bfloat16":
            raise ConfigError(
                "zero_stage", "0 keeps no float32 masters of bfloat16 weights; give 1, 2 or 3"
            )
        if self.rollout == "http":
            self._check_servers()

    def _check_servers(self) -> None:
        servers = (self.conversation_server, self.feedback_server)
        for name, value in zip(("conversation_server", "feedback_server"), servers, strict=True):
            if value is None:
                raise ConfigError(name, "is missing: --rollout http takes a server for each agent")
        folders = [str(name).rpartition("@")[2].rstrip("/") for name in servers]
        if folders[0] == folders[1]:
            raise ConfigError(
                "feedback_server", "has the conversation agent's folder; give another"
            )
        if self.model.rstrip("/") in folders:
            raise ConfigError("model", "is a server's folder, which the run overwrites; copy it")
        if self.temperature != 1.0:
            raise ConfigError(
                "temperature",
                f"{self.temperature} cannot be trained on with --rollout http: servers report "
                "log-probabilities before the temperature; give 1",
            )

    @property
    def stages(self) -> tuple[int, ...]:
        """The stages that run, in order."""
        return (1, 2) if self.stage == "both" else (int(self.stage),)

    def planned_steps(self, stage: int, train_prompts: int) -> int:
        """Optimizer steps of a stage.

        Raises:
            ConfigError: the training prompts do not fill one batch.
        """
        if self.batch_size > train_prompts:
            raise ConfigError(
                "batch_size", f"{self.batch_size} is more than the {train_prompts} training prompts"
            )
        if stage != 2:
            return self.stage1_steps if stage == 1 else self.single_steps
        steps = self.epochs * (train_prompts // self.batch_size)
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def check_cadence(self, train_prompts: int) -> None:
        """Refuse an interval that would never come.

        Raises:
            ConfigError: with the numbers.
        """
        longest = max(self.planned_steps(stage, train_prompts) for stage in self.stages)
        for name in ("checkpoint_every_steps", "eval_every_steps"):
            interval = getattr(self, name)
            if interval > longest:
                raise ConfigError(
                    name,
                    f"{interval} steps would never come: the longest stage has {longest} steps "
                    f"({train_prompts:,} training prompts in batches of {self.batch_size}, "
                    f"{self.epochs} epochs); give at most {longest}",
                )

    def check_world(self) -> None:
        """Refuse to mix the embedded world with what knows nothing of it.

        Raises:
            ConfigError: naming the field that must change.
        """
        if self.data == WORLD and self.prompts != "world":
            raise ConfigError(
                "data",
                f"{WORLD} has invented rules that no real model knows; give files of prompts",
            )
        if self.data == WORLD and self.test_data is not None:
            raise ConfigError("test_data", f"{WORLD} has test prompts of its own; leave it out")
        for name in ("train_judge", "eval_judge"):
            if self.data != WORLD and getattr(self, name) == "rules":
                raise ConfigError(name, "rules knows the embedded world only; give FORM@URL@MODEL")

    def check_files(self) -> None:
        """Refuse local files of prompts that cannot be read; needs no Ray. Raises DataError."""
        for names in (self.data, self.test_data):
            if names is not None and names != WORLD:
                check_local_files(*(name.strip() for name in names.split(",")))

    def warnings(self) -> list[str]:
        """What is allowed and probably not meant."""
        found = []
        if self.train_judge == self.eval_judge:
            found.append(
                f"the judge of the rewards also judges the held-out answers ({self.train_judge}): "
                "the figures cannot tell learning from pleasing that judge"
            )
        if self.model != WORLD and self.learning_rate >= 10 * PAPER_LEARNING_RATE:
            found.append(
                f"learning_rate {self.learning_rate:g} is "
                f"{self.learning_rate / PAPER_LEARNING_RATE:.0f} times the {PAPER_LEARNING_RATE:g} "
                "cited for Llama-3.1-8B (arXiv 2510.08240, as reimplementations cite it)"
            )
        return found
