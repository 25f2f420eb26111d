"""A state in files of a bounded size, and the whole again from the files of one process or several.

Object storages bound an object (pyarrow's stream: 10,000 parts of 10 MiB), two agents of eight
billion parameters with their optimizers are 193 GB, and what fails is sent again from its start.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ray_jobs.checkpoint.state import Path, plain_state

PIECE_BYTES = 32 * 10**9


def cut(state: Mapping[str, Any], limit_bytes: int) -> list[dict[str, Any]]:
    """What each file holds: "tensors" of `limit_bytes` together, or one that is larger. The first
    also has the "state", in which every tensor is a number: its place among all tensors."""
    pieces: list[list[torch.Tensor]] = [[]]
    count, room_bytes = 0, limit_bytes

    def place(_: Path, tensor: torch.Tensor) -> torch.Tensor:
        nonlocal count, room_bytes
        size_bytes = tensor.numel() * tensor.element_size()
        if pieces[-1] and size_bytes > room_bytes:
            pieces.append([])
            room_bytes = limit_bytes
        pieces[-1].append(tensor)
        room_bytes -= size_bytes
        count += 1
        return torch.tensor(count - 1)

    numbered = plain_state(state, place)
    return [{"state": numbered, "tensors": pieces[0]}, *({"tensors": each} for each in pieces[1:])]


def joined(pieces: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The state that was cut into these pieces."""
    tensors = [tensor for piece in pieces for tensor in piece["tensors"]]
    return plain_state(pieces[0]["state"], lambda _, number: tensors[int(number)])


def merged(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One state of the parts of several processes: their dicts' entries together. Where two have
    the same, the first one's counts."""
    whole = parts[0]
    for part in parts[1:]:
        _merge(whole, part)
    return whole


def _merge(whole: dict[str, Any], part: Mapping[str, Any]) -> None:
    for key, value in part.items():
        mine = whole.setdefault(key, value)
        if mine is not value and isinstance(mine, dict) and isinstance(value, dict):
            _merge(mine, value)
