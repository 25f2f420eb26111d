"""Padded tensors of (prompt, action) token sequences, and log-probabilities on them.

Prompts are padded on the left and actions on the right, so that the actions of all rows lie in
the same columns: the model computes logits for those columns only (`logits_to_keep`), which
with a vocabulary of 128,000 decides whether a step fits into memory. Position ids count real
tokens, so padding changes nothing.

Shapes: B rows, P the longest prompt, T the longest action, V the vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


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
