"""A linear-chain CRF over BIOES tags (Lafferty, McCallum and Pereira 2001) on given emissions.

The emissions come from a linear probe; all that is learned here is one score per pair of
neighbouring tags (`TagChain`, in PyTorch). Decoding is in float64 with numpy: the best tags
(`viterbi`) and the probability of a span under all taggings (`log_sums`, `segment_probability`).
Pairs that BIOES forbids carry -inf and are never decoded.

Shapes: B documents, T tokens (padded), K tags. Padding stands behind the real tokens.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ray_jobs.pii.spans import OUTSIDE, TagScheme

FORBIDDEN = float("-inf")
_TINY = 1e-30
_DEEPEST = 300.0
"""How far below the best tag of its token a tag's score counts: e^-300 is still a float64 when
the best one is forbidden there and all others are what the sums consist of."""


class TagChain(nn.Module):
    """Scores of tag pairs, of the first and of the last tag; zero (uniform) when new."""

    allowed: Tensor
    allowed_first: Tensor
    allowed_last: Tensor

    def __init__(self, scheme: TagScheme) -> None:
        super().__init__()
        n_tags = scheme.n_tags
        self.pairs = nn.Parameter(torch.zeros(n_tags, n_tags))
        self.first = nn.Parameter(torch.zeros(n_tags))
        self.last = nn.Parameter(torch.zeros(n_tags))
        self.register_buffer("allowed", torch.from_numpy(scheme.transitions), persistent=False)
        self.register_buffer("allowed_first", torch.from_numpy(scheme.starts), persistent=False)
        self.register_buffer("allowed_last", torch.from_numpy(scheme.ends), persistent=False)

    def scores(self) -> "ChainScores":
        return ChainScores(
            self.pairs.masked_fill(~self.allowed, FORBIDDEN),
            self.first.masked_fill(~self.allowed_first, FORBIDDEN),
            self.last.masked_fill(~self.allowed_last, FORBIDDEN),
        )


@dataclass(frozen=True)
class ChainScores:
    """Pair (K, K), first (K,) and last (K,) scores with -inf where BIOES forbids."""

    pairs: Tensor
    first: Tensor
    last: Tensor


def negative_log_likelihood(
    emissions: Tensor, tags: Tensor, lengths: Tensor, chain: ChainScores
) -> Tensor:
    """-log P(tags | emissions), (B,): emissions (B, T, K), valid tags (B, T), lengths (B,) >= 1."""
    steps = torch.arange(emissions.shape[1], device=emissions.device)
    real = steps[None, :] < lengths[:, None]
    emitted = emissions.gather(2, tags[:, :, None]).squeeze(2)
    pairs = chain.pairs[tags[:, :-1], tags[:, 1:]]
    path = emitted.masked_fill(~real, 0.0).sum(1) + pairs.masked_fill(~real[:, 1:], 0.0).sum(1)
    last = tags.gather(1, lengths[:, None] - 1).squeeze(1)
    path = path + chain.first[tags[:, 0]] + chain.last[last]
    return _log_partition(emissions, real, chain) - path


def _log_partition(emissions: Tensor, real: Tensor, chain: ChainScores) -> Tensor:
    """Log of the summed weight of all valid tag sequences, (B,).

    The sum over the tag before is a matrix product of exponentials, shifted by the row's
    maximum; what underflows is held at 1e-30, far below float32's resolution of the sum.
    """
    pair_factors = chain.pairs.exp()
    alpha = emissions[:, 0] + chain.first
    for step in range(1, emissions.shape[1]):
        peak = alpha.amax(1, keepdim=True).detach()
        summed = ((alpha - peak).exp() @ pair_factors).clamp_min(_TINY).log() + peak
        alpha = torch.where(real[:, step, None], summed + emissions[:, step], alpha)
    return torch.logsumexp(alpha + chain.last, 1)


@dataclass(frozen=True)
class Chain:
    """Pair (K, K), first (K,) and last (K,) scores, -inf where BIOES forbids."""

    pairs: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @staticmethod
    def of(chain: TagChain) -> "Chain":
        """The scores of a trained chain."""
        scores = chain.scores()
        return Chain(
            *(t.detach().double().numpy() for t in (scores.pairs, scores.first, scores.last))
        )


def viterbi(emissions: np.ndarray, lengths: np.ndarray, chain: Chain) -> np.ndarray:
    """The most probable valid tags, (B, T) int64; O in the padding.

    A document of one token or more always has a valid sequence (all O), so no forbidden
    pair can be returned.
    """
    n_documents, n_steps, n_tags = emissions.shape
    into = np.ascontiguousarray(chain.pairs.T)
    best = emissions[:, 0] + chain.first
    source = np.empty((n_steps, n_documents, n_tags), dtype=np.int64)
    stay = np.arange(n_tags)
    for step in range(1, n_steps):
        scores = best[:, None, :] + into
        source[step] = scores.argmax(2)
        here = (step < lengths)[:, None]
        best = np.where(here, scores.max(2) + emissions[:, step], best)
        source[step] = np.where(here, source[step], stay)
    tags = np.zeros((n_documents, n_steps), dtype=np.int64)
    documents = np.arange(n_documents)
    tag = (best + chain.last).argmax(1)
    for step in range(n_steps - 1, -1, -1):
        tags[:, step] = np.where(step < lengths, tag, OUTSIDE)
        if step:
            tag = source[step, documents, tag]
    return tags


@dataclass(frozen=True)
class LogSums:
    """forward (B, T, K) counts its own step's emission, backward (B, T, K) those behind it, so
    that P(tag k at t) = exp(forward + backward - partition); partition is (B,). `emissions` are
    those summed, none of them more than 300 below the best of its token."""

    emissions: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    partition: np.ndarray


def log_sums(emissions: np.ndarray, lengths: np.ndarray, chain: Chain) -> LogSums:
    """Forward and backward sums, each step rescaled to sum to one (Rabiner 1989, section V.A)."""
    n_documents, n_steps, n_tags = emissions.shape
    peak = emissions.max(2)
    emissions = np.maximum(emissions, peak[:, :, None] - _DEEPEST)
    factors = np.exp(emissions - peak[:, :, None])
    pairs, last = np.exp(chain.pairs), np.exp(chain.last)
    forward = np.empty((n_steps, n_documents, n_tags))
    backward = np.empty_like(forward)
    forward_scale = np.zeros((n_steps, n_documents))
    backward_scale = np.zeros((n_steps, n_documents))
    alpha, beta = np.exp(chain.first) * factors[:, 0], np.broadcast_to(last, (n_documents, n_tags))
    forward[0], backward[-1] = alpha, beta
    for step in range(1, n_steps):
        scale = alpha.sum(1)
        here = (step < lengths)[:, None]
        alpha = np.where(here, (alpha @ pairs) * factors[:, step] / scale[:, None], alpha)
        forward[step] = alpha
        forward_scale[step] = scale
    for step in range(n_steps - 1, 0, -1):
        scale = beta.sum(1)
        here = (step < lengths)[:, None]
        beta = np.where(here, ((factors[:, step] * beta) @ pairs.T) / scale[:, None], beta)
        backward[step - 1] = beta
        backward_scale[step] = scale
    real = (np.arange(n_steps)[:, None] < lengths).astype(float)
    forward_scale[0] = 1.0
    backward_scale[0] = 1.0
    before = (np.log(forward_scale) + peak.T) * real
    behind = (np.log(backward_scale) + peak.T) * real
    before, behind = before.cumsum(0), behind[::-1].cumsum(0)[::-1]
    partition = np.log((alpha * last).sum(1)) + before[-1]
    behind = np.concatenate([behind[1:], np.zeros((1, n_documents))])
    with np.errstate(divide="ignore"):
        log_forward = np.log(forward) + before[:, :, None]
        log_backward = np.log(backward) + behind[:, :, None]
    return LogSums(emissions, log_forward.swapaxes(0, 1), log_backward.swapaxes(0, 1), partition)


def segment_probability(
    sums: LogSums, chain: Chain, document: int, first: int, tags: np.ndarray
) -> float:
    """P(the document's tokens from `first` on carry exactly the tags), exact under the chain."""
    last = first + len(tags) - 1
    inner = np.arange(first + 1, last + 1)
    log_probability = (
        sums.forward[document, first, tags[0]]
        + sums.emissions[document, inner, tags[1:]].sum()
        + chain.pairs[tags[:-1], tags[1:]].sum()
        + sums.backward[document, last, tags[-1]]
        - sums.partition[document]
    )
    return math.exp(min(0.0, float(log_probability)))
