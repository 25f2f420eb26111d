"""The state in a checkpoint: plain containers of tensors, copied to host memory, cut into files.

It holds tensors, numbers, strings and bytes in dicts, lists and tuples: what `torch.load` reads
back with `weights_only=True`. Anything else is refused when it is saved, not at the next start.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

Path = tuple[str | int, ...]
"""Keys and indices from the state down to an entry."""

PIECE_BYTES = 32 * 10**9
"""Tensors that a file of a checkpoint holds at most, unless one alone is larger."""

_LEAVES = (bool, int, float, str, bytes, type(None))


def plain_state(
    state: Mapping[str, Any], convert: Callable[[Path, torch.Tensor], torch.Tensor]
) -> dict[str, Any]:
    """The same state in plain containers, each tensor replaced by `convert(path, tensor)`.

    Raises:
        TypeError: an entry, which it names, could not be loaded again.
    """
    return {key: _plain(value, (key,), convert) for key, value in state.items()}


def _plain(value: Any, path: Path, convert: Callable[[Path, torch.Tensor], torch.Tensor]) -> Any:
    if type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout == torch.strided:
        return convert(path, value.detach())
    if type(value) in _LEAVES:
        return value
    if isinstance(value, Mapping):
        return {key: _plain(entry, (*path, key), convert) for key, entry in value.items()}
    if type(value) in (list, tuple, torch.Size):
        items = (_plain(entry, (*path, i), convert) for i, entry in enumerate(value))
        return list(items) if isinstance(value, list) else tuple(items)
    where = "".join(f"[{part!r}]" for part in path)
    raise TypeError(
        f"state{where} is a {type(value).__module__}.{type(value).__qualname__}; a checkpoint "
        "holds dense tensors, numbers, strings and bytes in dicts, lists and tuples"
    )


def compact(_: Path, tensor: torch.Tensor) -> torch.Tensor:
    """A copy of a view, whose larger storage would be saved with it; else the tensor itself."""
    is_all = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if is_all else tensor.clone()


class HostBuffers:
    """One copy of a state in host memory, overwritten by the next; pinned for tensors of a GPU."""

    def __init__(self) -> None:
        self._buffers: dict[Path, torch.Tensor] = {}

    def copy(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The copied state, complete on return and valid until the next call."""
        used: dict[Path, torch.Tensor] = {}
        on_gpu = False

        def to_buffer(path: Path, tensor: torch.Tensor) -> torch.Tensor:
            nonlocal on_gpu
            on_gpu = on_gpu or tensor.is_cuda
            buffer = self._buffers.get(path)
            if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            used[path] = buffer.copy_(tensor, non_blocking=True)
            return buffer

        plain = plain_state(state, to_buffer)
        if on_gpu:
            torch.cuda.synchronize()
        self._buffers = used
        return plain


def cut(state: Mapping[str, Any], limit_bytes: int) -> list[dict[str, Any]]:
    """The content of each file of a state: under "tensors" at most `limit_bytes` of them, or a
    larger one alone. The first also has the "state", each tensor of it replaced by its number
    among all tensors."""
    pieces: list[list[torch.Tensor]] = [[]]
    count, room_bytes = 0, limit_bytes

    def to_number(_: Path, tensor: torch.Tensor) -> torch.Tensor:
        nonlocal count, room_bytes
        size_bytes = tensor.numel() * tensor.element_size()
        if pieces[-1] and size_bytes > room_bytes:
            pieces.append([])
            room_bytes = limit_bytes
        pieces[-1].append(tensor)
        room_bytes -= size_bytes
        count += 1
        return torch.tensor(count - 1)

    numbered = plain_state(state, to_number)
    return [{"state": numbered, "tensors": pieces[0]}, *({"tensors": each} for each in pieces[1:])]


def joined(pieces: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The state that `cut` made these pieces of."""
    tensors = [tensor for piece in pieces for tensor in piece["tensors"]]
    return plain_state(pieces[0]["state"], lambda _, number: tensors[int(number)])


def merged(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One state of the parts that several processes saved: the union of their dicts, at every
    level. Of entries that two have, the first one's counts."""
    state = parts[0]
    for part in parts[1:]:
        _merge(state, part)
    return state


def _merge(state: dict[str, Any], part: Mapping[str, Any]) -> None:
    for key, value in part.items():
        mine = state.setdefault(key, value)
        if mine is not value and isinstance(mine, dict) and isinstance(value, dict):
            _merge(mine, value)
