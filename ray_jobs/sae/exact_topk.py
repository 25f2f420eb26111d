"""Exact top-k of many samples by a tournament: k winners survive each round of group maxima."""

import torch
from torch import Tensor

_GROUP = 4
_CANDIDATES_PER_WINNER = 2  # with fewer to choose from, another round costs more than it saves


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
