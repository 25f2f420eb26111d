"""Agents that are only sampled from, out of Hugging Face folders, a few at a time in memory."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from ray_jobs.waltzrl.models.base import load_model


class Shelf:
    """Loads models when they are sampled from; the longest unused one goes first."""

    def __init__(self, device: torch.device, room: int = 2) -> None:
        self._device, self._room = device, room
        self._models: OrderedDict[Path, nn.Module] = OrderedDict()

    def agent(self, folder: Path) -> "FolderAgent":
        """The agent in a folder; loads nothing."""
        return FolderAgent(self, folder)

    def take(self, folder: Path) -> nn.Module:
        """The folder's model on the device: bfloat16 on a GPU, float32 on a CPU."""
        if folder not in self._models:
            while len(self._models) >= self._room:
                self._models.popitem(last=False)
            dtype = torch.bfloat16 if self._device.type == "cuda" else torch.float32
            self._models[folder] = load_model(folder, dtype).to(self._device).eval()
        self._models.move_to_end(folder)
        return self._models[folder]


class FolderAgent:
    """What a sampler samples from."""

    def __init__(self, shelf: Shelf, folder: Path) -> None:
        self._shelf, self._folder = shelf, folder

    @contextmanager
    def gathered(self) -> Iterator[nn.Module]:
        """The whole model."""
        yield self._shelf.take(self._folder)
