"""The collectives of the training loops, over `torch.distributed`; the identity with one worker."""

import os
import platform
import tempfile
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def world_size() -> int:
    """Workers in the process group; 1 without one."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_sum(tensor: Tensor) -> Tensor:
    """The sum over all ranks, in place; the same bits on every rank."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def most(here: int) -> int:
    """The largest number of all ranks."""
    if world_size() == 1:
        return here
    numbers = [here] * world_size()
    dist.all_gather_object(numbers, here)
    return max(numbers)


def all_agree(here: bool) -> bool:
    """Whether it is true on every rank."""
    if world_size() == 1:
        return here
    votes: list[bool] = [False] * world_size()
    dist.all_gather_object(votes, here)
    return all(votes)


def from_rank_zero(value: T) -> T:
    """Rank 0's value, on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def machine_leaders() -> list[int]:
    """For every rank the first one on its machine: the first that sees the same directory for
    temporary files."""
    found = os.stat(tempfile.gettempdir())
    boot = Path("/proc/sys/kernel/random/boot_id")
    machine = boot.read_text(encoding="utf-8") if boot.exists() else platform.node()
    here = (machine, found.st_dev, found.st_ino)
    machines = [here] * world_size()
    if world_size() > 1:
        dist.all_gather_object(machines, here)
    return [machines.index(machine) for machine in machines]


def from_rank(value: T, source: int) -> T:
    """The value of rank `source`, which the callers may choose each for itself."""
    if world_size() == 1:
        return value
    values = [value] * world_size()
    dist.all_gather_object(values, value)
    return values[source]
