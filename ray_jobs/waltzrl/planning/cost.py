"""Cost of a run: hours and dollars from token counts and two rates; size of its checkpoints.

Counted are whole replies: every one as long as its limit, every dialogue with all its rounds, so
hours and dollars are upper bounds for the rates they name. A sample of S tokens goes 2 times
through the network to be scored (policy and reference) and costs 3 passes to learn from (forward
and backward), 4 with checkpointing. A judge behind a server works elsewhere and is not counted.

The rates can be given. On a GPU they are otherwise ASSUMED, not measured: a share of the peaks in
NVIDIA's data sheet of the H100 SXM (dense bf16, memory bandwidth).

Checkpoints, with P parameters, N workers of which n share a machine, b bytes a weight, A agents
trained together:

    checkpoint   12 A P: weights and Adam's two moments in float32, every worker an Nth of it
    memory       n times the larger of b P, the model that a worker loads before it is partitioned,
                 and 2 * 12 A P / N, its part of a checkpoint gathered and staged; and the
                 optimizer, where it is offloaded
    disk         at a resume, once a machine: the checkpoint, and that of stage 1 before it
    storage      the checkpoints that are kept, and the one that is being written
"""

from dataclasses import dataclass

from ray_jobs.waltzrl.planning.memory import FLOAT32, MemoryPlan, Setting

STATES = 3
"""A checkpoint has of every parameter: the weight and two moments."""
H100_FLOPS, H100_BYTES_PER_S = 989e12, 3.35e12
ASSUMED_FLOPS_SHARE = 0.35
ASSUMED_BANDWIDTH_SHARE = 0.15
"""Of a sampler that reads all weights once a token of every row (`hf`, without CUDA graphs)."""


@dataclass(frozen=True)
class Rates:
    """Tokens a second of one worker; `source` says where they are from."""

    rollout: float
    """Tokens generated."""
    passes: float
    """Tokens through the network, forward; a backward pass counts as two."""
    source: str


def assumed_rates(parameters: int, weight_bytes: int, rollout_rows: int) -> Rates:
    """Of one H100."""
    reads_per_s = ASSUMED_BANDWIDTH_SHARE * H100_BYTES_PER_S / (weight_bytes * parameters)
    return Rates(
        rollout=rollout_rows * reads_per_s,
        passes=ASSUMED_FLOPS_SHARE * H100_FLOPS / (2 * parameters),
        source=(
            f"assumed for an H100, not measured: {ASSUMED_BANDWIDTH_SHARE:.0%} of its bandwidth "
            f"to sample, {ASSUMED_FLOPS_SHARE:.0%} of its bf16 peak to train"
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run does, over all workers."""

    steps: dict[int, int]
    """Optimizer steps by stage."""
    batch_size: int
    answer_tokens: int
    feedback_tokens: int
    rounds: int
    prompt_tokens: int
    held_out_dialogues: int
    """Of all validations and the rows of the final comparison."""
    checkpointing: bool

    @property
    def dialogue_tokens(self) -> int:
        """Generated in one dialogue."""
        return self.answer_tokens + self.rounds * (self.feedback_tokens + self.answer_tokens)

    @property
    def generated(self) -> int:
        """Tokens of all replies; the comparison model has no feedback."""
        trained = sum(
            steps * (self.dialogue_tokens if stage in (1, 2) else self.answer_tokens)
            for stage, steps in self.steps.items()
        )
        return self.batch_size * trained + self.held_out_dialogues * self.dialogue_tokens

    @property
    def passes(self) -> int:
        """Tokens through the network to score and learn, in forward passes."""
        a_feedback = self.prompt_tokens + self.answer_tokens + self.feedback_tokens
        an_answer = self.prompt_tokens + self.dialogue_tokens
        tokens = {
            1: a_feedback,
            2: a_feedback + an_answer,
            3: self.prompt_tokens + self.answer_tokens,
        }
        learnt = sum(steps * tokens[stage] for stage, steps in self.steps.items())
        return self.batch_size * learnt * (2 + 3 + self.checkpointing)


def hours(work: Work, rates: Rates, workers: int) -> float:
    """Wall-clock hours with the work shared out evenly."""
    return (work.generated / rates.rollout + work.passes / rates.passes) / workers / 3600


def cost_cents(hours: float, price_cents_per_hour: int, machines: int) -> int:
    """Of the machines for that long, rounded up."""
    return -int(-hours * price_cents_per_hour * machines // 1)


@dataclass(frozen=True)
class CheckpointPlan:
    """Bytes that a run's checkpoints take; memory and disk of one machine."""

    checkpoint: int
    memory: int
    disk: int
    storage: int


def checkpoint_plan(
    s: Setting, memory: MemoryPlan, agents: int, workers_a_machine: int, keep: int
) -> CheckpointPlan:
    """The formula of the module's docstring; `agents` learn in the last stage."""
    an_agent = STATES * FLOAT32 * s.shape.parameters
    checkpoint = agents * an_agent
    loading = s.weight_bytes * s.shape.parameters
    saving = -(-2 * checkpoint // s.workers)
    first = an_agent if agents > 1 else 0
    return CheckpointPlan(
        checkpoint=checkpoint,
        memory=workers_a_machine * (max(loading, saving) + memory.host),
        disk=checkpoint + first,
        storage=(keep + 1) * (checkpoint + first),
    )
