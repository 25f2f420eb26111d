"""From texts to what a linear probe reads of each token.

    texts -> HostTokens (activations, offsets) -> Features: SAE latents (sparse) or the raw
    activations (dense), and the surface category that the tokenizer dropped

Both kinds of features answer the same questions, so one probe and one recipe serve both. N tokens
of all documents lie end to end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.errors import DataError
from ray_jobs.activations.host_model import HostModel
from ray_jobs.activations.shards import ActivationSet
from ray_jobs.activations.sinks import SinkRule, find_sink_rule, sample
from ray_jobs.sae.model import TopKSAE

_ENCODE_ROWS = 8192
_SMALLEST_SCALE = 1e-6


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

    def sink_rule(self) -> SinkRule | None:
        """Tells attention sinks, by a sample of the documents; None where it finds none."""
        ends = np.cumsum(self.lengths)
        spread = sample(len(self.lengths))
        rows = [self.activations[ends[i] - self.lengths[i] : ends[i]] for i in spread]
        rule = find_sink_rule([each for each in rows if len(each)])
        return rule if rule.is_sink(self.activations).any() else None

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


@dataclass(frozen=True)
class LatentFeatures:
    """The k active latents of each token: indices (N, k) int32, values (N, k) bf16."""

    indices: Tensor
    values: Tensor
    n_features: int

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, rows: Tensor) -> "LatentFeatures":
        return LatentFeatures(self.indices[rows], self.values[rows], self.n_features)

    def project(self, weight: Tensor) -> Tensor:
        """features @ weight: (n_features, M) -> (N, M), touching the active rows only."""
        return F.embedding_bag(
            self.indices, weight, mode="sum", per_sample_weights=self.values.to(weight.dtype)
        )

    def location_and_scale(self) -> tuple[Tensor, Tensor]:
        """Zero (latents stay sparse), and each latent's root mean square where it is active."""
        flat, values = self.indices.flatten().long(), self.values.flatten().float()
        squares = torch.zeros(self.n_features).index_add_(0, flat, values.square())
        counts = torch.bincount(flat[values != 0], minlength=self.n_features)
        scale = (squares / counts.clamp_min(1)).sqrt()
        scale = torch.where(scale > _SMALLEST_SCALE, scale, torch.ones(()))
        return torch.zeros(self.n_features), scale


@dataclass(frozen=True)
class RawFeatures:
    """The activations themselves, (N, d_in) bf16 or float32."""

    activations: Tensor

    @property
    def n_features(self) -> int:
        return self.activations.shape[1]

    def __len__(self) -> int:
        return len(self.activations)

    def take(self, rows: Tensor) -> "RawFeatures":
        return RawFeatures(self.activations[rows])

    def project(self, weight: Tensor) -> Tensor:
        """features @ weight: (n_features, M) -> (N, M)."""
        return self.activations.to(weight.dtype) @ weight

    def location_and_scale(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each dimension, in one bounded pass."""
        total, squares = torch.zeros(2, self.n_features, dtype=torch.float64)
        for chunk in self.activations.split(_ENCODE_ROWS):
            total += chunk.double().sum(0)
            squares += chunk.double().square().sum(0)
        mean = total / max(1, len(self))
        scale = (squares / max(1, len(self)) - mean.square()).clamp_min(0.0).sqrt()
        scale = torch.where(scale > _SMALLEST_SCALE, scale, torch.ones((), dtype=scale.dtype))
        return mean.float(), scale.float()


Features = LatentFeatures | RawFeatures


@torch.no_grad()
def features_of(
    activations: Tensor, sae: TopKSAE | None, sinks: SinkRule | None = None
) -> Features:
    """Features (N) of activations (N, d_in): latents through `sae`, or raw without one.

    An attention sink, which no SAE was trained on and whose size would decide every scale, has
    the features of an average token: what is known of it is its surface and its neighbours.
    """
    if sinks is not None:
        activations = sinks.with_sinks_at_centre(activations)
    if sae is None:
        return RawFeatures(activations)
    indices, values = [], []
    dtype = next(sae.parameters()).dtype
    for chunk in activations.split(_ENCODE_ROWS):
        chunk_values, chunk_indices = sae.encode(chunk.to(dtype))
        indices.append(chunk_indices.to(torch.int32))
        values.append(chunk_values.to(torch.bfloat16))
    return LatentFeatures(torch.cat(indices), torch.cat(values), sae.n_latents)


def check_fits(sae: TopKSAE, host: HostModel, path: str) -> None:
    """Raises DataError when the SAE of `path` takes activations of another width."""
    if sae.d_in != host.d_in:
        raise DataError(
            f"{path} takes activations of width {sae.d_in}, {host.description} gives "
            f"{host.d_in}; give the SAE that was trained on this host model"
        )


def document_rows(lengths: Sequence[int], documents: Sequence[int]) -> Tensor:
    """Row numbers of the chosen documents' tokens, in order; `lengths` are of all documents."""
    ends = torch.tensor(lengths).cumsum(0).tolist()
    return torch.cat(
        [torch.arange(ends[d] - lengths[d], ends[d]) for d in documents]
        or [torch.empty(0, dtype=torch.long)]
    )


_TOUCHES, _SPACE, _LINE = range(3)
_NO_LETTER, _LOWER, _CAPITALISED, _UPPER = range(4)
N_SURFACE = 12
"""Three kinds of gap times four kinds of case."""


def surface_categories(text: str, offsets: np.ndarray) -> np.ndarray:
    """Categories (T,) int64 in [0, N_SURFACE) of tokens with character offsets (T, 2): the gap
    before the token times its letter case, both of which an uncased tokenizer drops."""
    categories = np.empty(len(offsets), dtype=np.int64)
    end_before = 0
    for number, (start, end) in enumerate(offsets.tolist()):
        if number == 0 or "\n" in text[end_before:start]:
            gap = _LINE
        else:
            gap = _SPACE if start > end_before else _TOUCHES
        categories[number] = 4 * gap + _case(text[start:end])
        end_before = end
    return categories


def _case(token: str) -> int:
    """A single capital counts as a capitalised word; mixed case as upper case."""
    if token.islower():
        return _LOWER
    if token == token.lower():
        return _NO_LETTER
    return _CAPITALISED if len(token) == 1 or token[1:] == token[1:].lower() else _UPPER
