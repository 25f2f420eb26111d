"""What a checkpoint may hold, and its copy in host memory.

Tensors, numbers, strings and bytes in dicts, lists and tuples: what `torch.load` reads back
with `weights_only=True`, refused at once otherwise and not at the next start.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

Path = tuple[str | int, ...]
_LEAVES = (bool, int, float, str, bytes, type(None))


def plain_state(
    state: Mapping[str, Any], place: Callable[[Path, torch.Tensor], torch.Tensor]
) -> dict[str, Any]:
    """The same state in plain containers, each tensor replaced by `place(path, tensor)`.

    Raises TypeError naming the entry that could not be loaded again.
    """
    return {key: _plain(value, (key,), place) for key, value in state.items()}


def _plain(value: Any, path: Path, place: Callable[[Path, torch.Tensor], torch.Tensor]) -> Any:
    if type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout == torch.strided:
        return place(path, value.detach())
    if type(value) in _LEAVES:
        return value
    if isinstance(value, Mapping):
        return {key: _plain(entry, (*path, key), place) for key, entry in value.items()}
    if type(value) in (list, tuple, torch.Size):
        items = (_plain(entry, (*path, i), place) for i, entry in enumerate(value))
        return list(items) if isinstance(value, list) else tuple(items)
    where = "".join(f"[{part!r}]" for part in path)
    raise TypeError(
        f"state{where} is a {type(value).__module__}.{type(value).__qualname__}; a checkpoint "
        "holds dense tensors, numbers, strings and bytes in dicts, lists and tuples"
    )


def compact(_: Path, tensor: torch.Tensor) -> torch.Tensor:
    """A view of a larger storage would be saved with all of it."""
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()


class HostBuffers:
    """One copy of a state in host memory, written over by the next; pinned for a GPU's tensors."""

    def __init__(self) -> None:
        self._buffers: dict[Path, torch.Tensor] = {}

    def copy(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Valid until the next call. Returns when the copy is complete."""
        used: dict[Path, torch.Tensor] = {}
        on_gpu = False

        def place(path: Path, tensor: torch.Tensor) -> torch.Tensor:
            nonlocal on_gpu
            on_gpu = on_gpu or tensor.is_cuda
            buffer = self._buffers.get(path)
            if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            used[path] = buffer.copy_(tensor, non_blocking=True)
            return buffer

        plain = plain_state(state, place)
        if on_gpu:
            torch.cuda.synchronize()
        self._buffers = used
        return plain


# A state in files of a bounded size, and the whole again from the files of one process or several.

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
