"""A linear-chain CRF over BIOES tags (Lafferty, McCallum and Pereira 2001) on given emissions.

The emissions come from a linear probe; all that is learned here is one score per pair of
neighbouring tags. Pairs that BIOES forbids carry -inf and are never decoded (`decoding.py`).

Shapes: B documents, T tokens (padded), K tags. Padding stands behind the real tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ray_jobs.pii.spans import TagScheme

FORBIDDEN = float("-inf")
_TINY = 1e-30


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
