"""What a checkpoint may hold, and its copy in host memory.

Tensors, numbers, strings and bytes in dicts, lists and tuples: what `torch.load` reads back
with `weights_only=True`, refused at once otherwise and not at the next start.
"""

from collections.abc import Callable, Mapping
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
