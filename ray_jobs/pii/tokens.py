"""Texts as the host model sees them: activations, character offsets and tokens per text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ray_jobs.activations.host_model import HostModel
from ray_jobs.activations.shards import ActivationSet


@dataclass(frozen=True)
class HostTokens:
    """Documents end to end: activations (N, d_in), offsets (N, 2), tokens of each document.

    Activations keep the dtype they come in: bf16 from a harvest, so that two million tokens
    of a small host stay below 2 GB.
    """

    activations: Tensor
    offsets: np.ndarray
    lengths: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.activations)

    def document_offsets(self) -> list[np.ndarray]:
        """Offsets (T, 2) of each document."""
        return np.split(self.offsets, np.cumsum(self.lengths)[:-1]) if self.lengths else []

    def documents(self, first: int, stop: int) -> "HostTokens":
        """The documents [first, stop), without copying activations."""
        begin, end = sum(self.lengths[:first]), sum(self.lengths[:stop])
        return HostTokens(
            self.activations[begin:end], self.offsets[begin:end], self.lengths[first:stop]
        )

    @staticmethod
    def concat(parts: "Sequence[HostTokens]") -> "HostTokens":
        """All documents of `parts`, which are not none."""
        return HostTokens(
            torch.cat([part.activations for part in parts]),
            np.concatenate([part.offsets for part in parts]),
            tuple(length for part in parts for length in part.lengths),
        )


def run_host(host: HostModel, texts: Sequence[str]) -> HostTokens:
    """Run the host model over texts; rounded to bf16, as a harvest keeps activations."""
    tokenized = host.tokenize(list(texts))
    rows = [rows.to(torch.bfloat16) for rows in host.rows(tokenized)]
    empty = torch.empty(0, host.d_in, dtype=torch.bfloat16)
    offsets = [np.empty((0, 2), dtype=np.int32), *(text.offsets for text in tokenized)]
    return HostTokens(
        torch.cat([empty, *rows]),
        np.concatenate(offsets),
        tuple(text.n_rows for text in tokenized),
    )


def read_tokens(activations: ActivationSet, first: int, stop: int) -> HostTokens:
    """The documents [first, stop) of a harvested set, those without a token included."""
    lengths = [0] * (stop - first)
    rows = [torch.empty(0, activations.d_in, dtype=torch.bfloat16)]
    offsets = [np.empty((0, 2), dtype=np.int32)]
    for document, part in activations.documents(first, stop):
        lengths[document - first] = len(part)
        rows.append(part.activations)
        offsets.append(torch.stack([part.start, part.end], 1).numpy())
    return HostTokens(torch.cat(rows), np.concatenate(offsets), tuple(lengths))
