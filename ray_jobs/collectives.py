"""The few collectives of the loops; with one worker they are the identity."""

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
