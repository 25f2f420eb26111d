"""Whole-batch statistics of a training step and the check on held-out activations.

Shapes: B tokens of a batch over all ranks, d the input width, n latents.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from data.errors import DataError, NonFiniteError
from ray_jobs.activations.shards import ActivationSet
from ray_jobs.runtime.collectives import all_sum
from ray_jobs.sae.model import SAEOutput, TopKSAE

CHUNK_ROWS = 4096
MAX_HELD_OUT_ROWS = 32_768
"""Held-out activations of a check: enough for FVU to three digits, seconds at most."""


@dataclass(frozen=True)
class StepStatistics:
    """What one step did to the whole global batch; tensors, so that no step waits for them."""

    loss: Tensor
    """Scalar float64."""

    fvu: Tensor
    """Scalar float64: fraction of the batch's variance unexplained."""

    fired: Tensor
    """bool (n,): latents that were active anywhere."""


def whole_batch(out: SAEOutput, batch_size: int, aux_weight: float) -> StepStatistics:
    """Sum one rank's step over all ranks, in one collective of n + d + 3 numbers."""
    d, n = out.x.shape[1], out.n_latents
    sums = torch.cat(
        [
            torch.stack([out.squared_error, out.aux_squared_error, out.x.square().sum()]).double(),
            out.x.sum(dim=0).double(),
            out.fired.double(),
        ]
    )
    all_sum(sums)
    squared_error, aux_squared_error, sum_squares = sums[:3]
    sum_x, fired = sums[3 : 3 + d], sums[3 + d :]
    variance = sum_squares - sum_x.square().sum() / batch_size
    return StepStatistics(
        loss=(squared_error + aux_weight * aux_squared_error) / (batch_size * d),
        fvu=squared_error / variance,
        fired=fired.view(n) > 0,
    )


def held_out_share(
    train: ActivationSet, held_out: ActivationSet, rank: int, world_size: int
) -> Tensor:
    """This rank's share of the held-out sample, centred and scaled as the training rows are;
    without attention sinks."""
    rows = min(held_out.n_rows, MAX_HELD_OUT_ROWS)
    start, stop = rows * rank // world_size, rows * (rank + 1) // world_size
    return train.normalise(held_out.rows(start, stop).ordinary)


@torch.no_grad()
def held_out_metrics(sae: TopKSAE, rows: Tensor) -> dict[str, float]:
    """`fvu` and `loss` (without AuxK) on every rank's share of the held-out rows (m, d).

    Chunked: memory does not grow with the rows. Collective.

    Raises:
        DataError: the rows are all alike, so that there is no variance to explain.
        NonFiniteError: the FVU is not finite.
    """
    d = rows.shape[1]
    training = sae.training
    sae.eval()
    sums = torch.zeros(3 + d, dtype=torch.float64)
    for chunk in rows.split(CHUNK_ROWS):
        out = sae(chunk.to(sae.W_enc.device))
        sums[0] += out.squared_error.double().cpu()
        sums[1] += out.x.square().sum().double().cpu()
        sums[2] += len(chunk)
        sums[3:] += out.x.sum(dim=0).double().cpu()
    sae.train(training)
    sums = all_sum(sums.to(sae.W_enc.device)).cpu()
    squared_error, sum_squares, count = sums[:3].tolist()
    variance = sum_squares - sums[3:].square().sum().item() / count
    if variance <= 0:
        raise DataError("the held-out activations are all alike: give more validation texts")
    if not math.isfinite(squared_error / variance):
        raise NonFiniteError("the FVU of the held-out activations is not finite: look at them")
    return {"fvu": squared_error / variance, "loss": squared_error / (count * d)}
