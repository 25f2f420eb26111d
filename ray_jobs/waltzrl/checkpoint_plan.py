"""What a run's checkpoints take: in the storage, in a machine's memory and on its disk. Pure.

P parameters, N workers of which n share a machine, b bytes a weight, A agents trained together.

    checkpoint   12 A P: weights and Adam's two moments in float32, every worker an Nth of it
    memory       n times the larger of b P, the model that a worker loads before it is shared
                 out, and 2 * 12 A P / N, its part of a checkpoint gathered and staged; and
                 the optimizer, where it is offloaded
    disk         at a resume, once a machine: the checkpoint, and that of stage 1 before it
    storage      the checkpoints that are kept, and the one that is being written
"""

from dataclasses import dataclass

from ray_jobs.waltzrl.planning.memory import FLOAT32, MemoryPlan, Setting

STATES = 3
"""Weights and two moments."""


@dataclass(frozen=True)
class CheckpointPlan:
    """Bytes; memory and disk of one machine."""

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
