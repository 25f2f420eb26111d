"""The training step's mathematics as one autograd function that keeps no dense latents.

With x_c = x - b_dec, z = top-k(relu(x_c W_enc^T + b_enc)) and residual e = z W_dec + b_dec - x:

    squared_error     = sum over the batch of |e|^2
    aux_squared_error = sum over the batch of |z_aux W_dec + e|^2, e held constant

z_aux are the `aux_k` largest latents among the dead ones (Gao et al. 2024, arXiv:2406.04093,
appendix A.2). Apart from the encoder's one dense matmul, every pass costs O(B k d). Scores are
made and searched block by block, so that they stay in cache and are never kept.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

_BLOCK_ELEMENTS = {"cpu": 2**22}  # 16 MB in fp32, about a last-level cache
_BLOCK_ELEMENTS_ELSEWHERE = 2**29  # bounds memory only
_SMALLEST_BLOCK = 128  # samples
_GROUP = 4
_CANDIDATES_PER_WINNER = 2  # with fewer to choose from, another round costs more than it saves


class StepOptions(NamedTuple):
    """What of a step is not a tensor."""

    k: int
    aux_k: int
    encoder_dtype: torch.dtype
    """Of the encoder's matmul; everything else runs in the parameters' dtype."""


class TopKSquaredErrors(torch.autograd.Function):
    """(x, W_enc, b_enc, W_dec, b_dec, dead, options) -> (squared_error, aux_squared_error,
    indices, values, residual).

    x (B, d), weights (n, d), b_enc (n,), b_dec (d,), dead: int64 indices of the dead latents,
    or None for no auxiliary loss (its result is then 0). The two errors are sums over the
    batch, differentiable by the four parameters; x gets no gradient, and the other results
    carry none.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        dead: Tensor | None,
        options: StepOptions,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        centred = x - b_dec
        values, indices, dead_scores = top_latents(centred, W_enc, b_enc, dead, options)
        residual = decode_sum(indices, values, W_dec.detach()).sub_(centred)
        aux = (None, None, None)
        aux_error = x.new_zeros(())
        if dead_scores is not None:
            aux = _aux_forward(dead_scores, residual, W_dec[dead], options.aux_k)
            aux_error = _sum_of_squares(aux[-1])
        ctx.save_for_backward(x, W_enc, W_dec, b_dec, indices, values, residual, dead, *aux)
        ctx.mark_non_differentiable(indices, values, residual)
        return _sum_of_squares(residual), aux_error, indices, values, residual

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, g: Tensor, g_aux: Tensor, *_: Tensor) -> tuple:
        x, W_enc, W_dec, b_dec, indices, values, residual, dead, *aux = ctx.saved_tensors
        centred = x - b_dec
        grad_W_enc, grad_b_enc, grad_W_dec = _weight_gradients(
            indices, values, residual, centred, W_dec, 2.0 * g
        )
        if dead is not None:
            rows = _aux_backward(2.0 * g_aux, centred, W_dec[dead], *aux)
            for gradient, of_dead in zip((grad_W_enc, grad_b_enc, grad_W_dec), rows, strict=True):
                gradient[dead] += of_dead
        grad_b_dec = residual.sum(dim=0).mul_(2.0 * g).sub_(grad_b_enc @ W_enc)
        return None, grad_W_enc, grad_b_enc, grad_W_dec, grad_b_dec, None, None


def _sum_of_squares(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1).square().sum()


def _weight_gradients(
    indices: Tensor, values: Tensor, residual: Tensor, centred: Tensor, W_dec: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of W_enc, b_enc and W_dec for a loss whose gradient by `residual` is
    scale * residual.

    One stable sort turns the (B, k) latents into one bag of samples per latent, in a fixed
    order, so every sum below is deterministic. W_dec's gradient sums the residuals of each
    bag; its own backward against W_dec is <W_dec[latent], residual[sample]> for every entry,
    which is the gradient of the values, already in bag order for W_enc's sums.
    """
    n, k = len(W_dec), indices.shape[1]
    latents, order = torch.sort(indices.view(-1).int(), stable=True)
    samples = order // k
    bounds = torch.arange(n + 1, device=indices.device, dtype=torch.int32)
    offsets = torch.searchsorted(latents, bounds)

    def sum_bags(entries: Tensor, rows: Tensor, weights: Tensor | None) -> Tensor:
        return F.embedding_bag(
            entries,
            rows,
            offsets,
            mode="sum",
            per_sample_weights=weights,
            include_last_offset=True,
        )

    sorted_values = values.view(-1)[order]
    with torch.enable_grad():
        leaf = (sorted_values * scale).requires_grad_()
        bags = sum_bags(samples, residual, leaf)
    (value_grad,) = torch.autograd.grad(bags, leaf, W_dec)
    value_grad = value_grad.mul_(scale).mul_(sorted_values > 0)
    grad_W_enc = sum_bags(samples, centred, value_grad)
    entries = torch.arange(len(order), device=order.device)
    grad_b_enc = sum_bags(entries, value_grad.view(-1, 1), None).view(-1)
    return grad_W_enc, grad_b_enc, bags.detach()


def _aux_forward(
    dead_scores: Tensor, residual: Tensor, dead_W_dec: Tensor, aux_k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Values and indices (B, min(aux_k, m)) among the m dead latents, and z_aux W_dec + e.

    Dense over the dead rows: `aux_k` is large beside k, so gathering rows would cost more.
    """
    values, indices = exact_topk(dead_scores, min(aux_k, len(dead_scores)))
    values = values.relu_()
    latents = residual.new_zeros(len(residual), len(dead_W_dec)).scatter_(1, indices, values)
    return values, indices, torch.addmm(residual, latents, dead_W_dec)


def _aux_backward(
    scale: Tensor,
    centred: Tensor,
    dead_W_dec: Tensor,
    values: Tensor,
    indices: Tensor,
    aux_residual: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the dead latents' rows of W_enc, b_enc and W_dec."""
    latents = centred.new_zeros(len(centred), len(dead_W_dec)).scatter_(1, indices, values)
    latent_grad = (aux_residual @ dead_W_dec.t()).mul_(latents > 0).mul_(scale)
    rows_W_dec = (latents.t() @ aux_residual).mul_(scale)
    return latent_grad.t() @ centred, latent_grad.sum(dim=0), rows_W_dec


def decode_sum(indices: Tensor, values: Tensor, W_dec: Tensor) -> Tensor:
    """(B, d): each sample's sum of decoder rows `indices` (B, k) weighted by `values`."""
    return F.embedding_bag(indices, W_dec, mode="sum", per_sample_weights=values)


def top_latents(
    centred: Tensor, W_enc: Tensor, b_enc: Tensor, dead: Tensor | None, options: StepOptions
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Values and indices (B, k) of the top-k latents; the `dead` latents' scores (m, B)."""
    batch = len(centred)
    values = centred.new_empty(batch, options.k)
    indices = centred.new_empty(batch, options.k, dtype=torch.int64)
    dead_scores = None if dead is None else centred.new_empty(len(dead), batch)
    for samples, scores in score_blocks(centred, W_enc, b_enc, options.encoder_dtype):
        values[samples], indices[samples] = exact_topk(scores, options.k)
        if dead_scores is not None:
            dead_scores[:, samples] = scores[dead]
    return values.relu_(), indices, dead_scores


def score_blocks(
    centred: Tensor, W_enc: Tensor, b_enc: Tensor, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    """Pre-activations of `centred` (B, d), before the ReLU, in `dtype`, some samples at a time.

    Yields the samples' slice of the batch and their scores (n, samples), which the next block
    overwrites. Latents lead because that is the faster order for both the matmul and the
    maxima of its result.
    """
    weights, bias = W_enc.to(dtype), b_enc.to(dtype).unsqueeze(1)
    n, batch = len(weights), len(centred)
    elements = _BLOCK_ELEMENTS.get(centred.device.type, _BLOCK_ELEMENTS_ELSEWHERE)
    size = min(batch, max(_SMALLEST_BLOCK, elements // n))
    scratch = weights.new_empty(n * size)
    for start in range(0, batch, size or 1):
        block = centred[start : start + size].to(dtype)
        scores = scratch[: n * len(block)].view(n, len(block))
        torch.addmm(bias, weights, block.t(), out=scores)
        yield slice(start, start + len(block)), scores


def exact_topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each column of `scores` (n, B): values and int64 row indices, (B, k).

    The set is exact, its order is unspecified. Where entries tie at the border, which of them
    is taken is deterministic but need not be `torch.topk`'s choice.

    `torch.topk` costs about the same for every element. An entry among the k largest lies in
    one of the k groups with the largest maxima, so it is enough to search those groups, found
    in the same way among the maxima. Group members are n / 4 apart, which makes the maxima one
    vectorised pass.
    """
    n, samples = scores.shape
    stride = n // _GROUP
    if n % _GROUP or stride < _CANDIDATES_PER_WINNER * k:
        values, indices = scores.t().contiguous().topk(k, dim=1, sorted=False)
        return values, indices
    _, winners = exact_topk(scores.view(_GROUP, stride, samples).amax(dim=0), k)
    members = torch.arange(_GROUP, device=scores.device).mul_(stride)
    candidates = (winners.unsqueeze(1) + members.unsqueeze(1)).view(samples, _GROUP * k)
    values, chosen = scores.t().gather(1, candidates).topk(k, dim=1, sorted=False)
    return values, candidates.gather(1, chosen)
