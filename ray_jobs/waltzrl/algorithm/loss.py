"""REINFORCE++ loss of one agent, on padded batches of (prompt, action) tokens.

After arXiv 2510.08240, section 3.3, and its sources. Shapes: B samples, P tokens of the longest
prompt, T of the longest action; `mask` (B, T) is 1.0 on tokens that count. With log-probabilities
`logp` of the policy, `old` of the policy that sampled, `ref` of the frozen reference, all at the
sampling temperature:

    k1_i    = old_i - ref_i                                         clamped to +-10
    r_i     = -beta k1_i + R 1{i is the last token}
    G_i     = sum_{j >= i} r_j                                      gamma = 1
    A_i     = (G_i - mean G) / (std G + 1e-8)                       over all tokens of the step
    s_i     = exp(logp_i - old_i)
    loss    = -(1/N) sum_i w_i min(s_i A_i, clip(s_i, 1 - eps, 1 + eps) A_i)

N counts the tokens of the whole step over all workers, w_i = min(exp(old_i - sampler_i), cap).
For reporting, KL(policy || reference) is estimated by k3 = exp(-k1) - 1 + k1 >= 0 (Schulman).

Prompts are padded on the left and actions on the right, so that the actions of all rows lie in
the same columns: the model computes logits for those columns only (`logits_to_keep`), which
with a vocabulary of 128,000 decides whether a step fits into memory. Position ids count real
tokens, so padding changes nothing.

Deviations:
 1. The paper averages over the tokens of each answer first (1/|y|); the global token count
    weighs every token alike, as REINFORCE++'s authors' implementation does.
 2. The paper's sampler is its policy. Where another program samples, w_i (truncated importance
    weights) corrects for what its arithmetic differs by; with our own samplers w_i is 1 to
    within rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

KL_CLAMP = 10.0
WHITENING_EPS = 1e-8

AllSum = Callable[[Tensor], Tensor]
"""Sums a tensor over all workers; the identity for one."""


def token_rewards(rewards: Tensor, old: Tensor, ref: Tensor, mask: Tensor, beta: float) -> Tensor:
    """r (B, T): the KL penalty on every token, `rewards` (B,) on each sample's last one."""
    k1 = (old - ref).clamp(-KL_CLAMP, KL_CLAMP)
    last = (mask.cumsum(dim=1) == mask.sum(dim=1, keepdim=True)) & (mask > 0)
    return (-beta * k1 + rewards[:, None] * last) * mask


def returns(rewards: Tensor) -> Tensor:
    """G (B, T): the sum of this token's reward and all later ones'."""
    return rewards.flip(1).cumsum(dim=1).flip(1)


def whiten(values: Tensor, mask: Tensor, all_sum: AllSum) -> Tensor:
    """Mean 0, variance 1 over the masked tokens of all workers; 0 elsewhere.

    Computed in float64, about the mean in a second pass: with nearly equal returns the one-pass
    variance is all rounding.
    """
    wide, count = values.double(), mask.double()
    total = all_sum(torch.stack([(wide * count).sum(), count.sum()]))
    tokens = total[1].clamp(min=1)
    centred = (wide - total[0] / tokens) * count
    variance = all_sum(centred.square().sum()[None])[0] / tokens
    return (centred / (variance.sqrt() + WHITENING_EPS)).to(values.dtype)


def advantages(
    rewards: Tensor, old: Tensor, ref: Tensor, mask: Tensor, beta: float, all_sum: AllSum
) -> Tensor:
    """A (B, T) of one agent's samples of a step."""
    return whiten(returns(token_rewards(rewards, old, ref, mask, beta)), mask, all_sum)


def importance(old: Tensor, sampler: Tensor, cap: float) -> Tensor:
    """w (B, T): how much likelier the policy's own arithmetic makes a token, at most `cap`."""
    return (old - sampler).exp().clamp(max=cap)


def surrogate(
    logp: Tensor, old: Tensor, advantage: Tensor, weight: Tensor, epsilon: float
) -> Tensor:
    """The loss before the sum: (B, T), its sum over masked tokens divided by N is the loss.

    `advantage` is zero where the mask is, and so is the result.
    """
    ratio = (logp - old).exp()
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    return -weight * torch.minimum(ratio * advantage, clipped * advantage)


def k3(logp: Tensor, ref: Tensor) -> Tensor:
    """Schulman's low-variance estimator of KL(policy || reference), per token, >= 0."""
    difference = (ref - logp).clamp(-KL_CLAMP, KL_CLAMP)
    return difference.exp() - 1 - difference


@dataclass(frozen=True)
class ActionBatch:
    """`ids` (B, P + T) int64, `attention` (B, P + T) int64, `mask` (B, T) float32: 1 on actions."""

    ids: Tensor
    attention: Tensor
    mask: Tensor

    @property
    def actions(self) -> Tensor:
        """(B, T) int64."""
        return self.ids[:, -self.mask.shape[1] :]

    def rows(self, start: int, stop: int) -> "ActionBatch":
        """Some of the rows, at the same widths."""
        return ActionBatch(self.ids[start:stop], self.attention[start:stop], self.mask[start:stop])


def action_batch(
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int, device: torch.device
) -> ActionBatch:
    """Pad (prompt ids, action ids) pairs. An empty action gives a row that counts nothing."""
    prompt_width = max(len(prompt) for prompt, _ in sequences)
    width = max(1, *(len(action) for _, action in sequences))
    ids = torch.full((len(sequences), prompt_width + width), pad_id)
    attention = torch.zeros_like(ids)
    mask = torch.zeros(len(sequences), width)
    for row, (prompt, action) in enumerate(sequences):
        start, end = prompt_width - len(prompt), prompt_width + len(action)
        ids[row, start:end] = torch.tensor([*prompt, *action])
        attention[row, start:end] = 1
        mask[row, : len(action)] = 1
    return ActionBatch(ids.to(device), attention.to(device), mask.to(device))


def positions(attention: Tensor) -> Tensor:
    """Position ids (B, L) that count real tokens from 0."""
    return (attention.cumsum(dim=1) - 1).clamp(min=0)


def action_logprobs(forward: Callable[..., Any], batch: ActionBatch, temperature: float) -> Tensor:
    """log pi(action | prompt) at the sampling temperature: (B, T) float32, 0 off the mask.

    The sampler's log-probabilities are those of logits / temperature; at another temperature
    the ratio of both would measure nothing.
    """
    width = batch.mask.shape[1]
    logits = forward(
        input_ids=batch.ids,
        attention_mask=batch.attention,
        position_ids=positions(batch.attention),
        logits_to_keep=width + 1,
        use_cache=False,
    ).logits[:, :-1]
    return selected_logprobs(logits, batch.actions, temperature) * batch.mask


def selected_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / temperature) at `tokens`; without the (B, T, V) log-softmax."""
    scaled = logits.float() / temperature
    chosen = scaled.gather(-1, tokens[..., None]).squeeze(-1)
    return chosen - scaled.logsumexp(dim=-1)
