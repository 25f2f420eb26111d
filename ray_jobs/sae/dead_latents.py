"""Which latents are dead: counted in tokens of the global batch, kept with the model's state."""

import torch
from torch import Tensor, nn


class DeadLatents(nn.Module):
    """Tokens since each latent last fired; dead from `dead_after_tokens` on.

    Call `update` once per step on every rank with the same arguments: `fired` reduced over all
    ranks (logical or) and `tokens` of the whole batch. Counting per rank would make the
    auxiliary loss set in later with every rank added.
    """

    tokens_since_fired: Tensor

    def __init__(self, n_latents: int, dead_after_tokens: int) -> None:
        super().__init__()
        self.dead_after_tokens = dead_after_tokens
        self.register_buffer("tokens_since_fired", torch.zeros(n_latents, dtype=torch.int64))

    @torch.no_grad()
    def update(self, fired: Tensor, tokens: int) -> None:
        """`fired`: bool (n_latents,)."""
        self.tokens_since_fired += tokens
        self.tokens_since_fired.masked_fill_(fired, 0)

    def mask(self) -> Tensor:
        """bool (n_latents,): true where dead."""
        return self.tokens_since_fired >= self.dead_after_tokens

    def indices(self) -> Tensor:
        """int64 (n_dead,), ascending."""
        return self.mask().nonzero().view(-1)

    def share(self) -> float:
        """Share of the latents that are dead."""
        return self.mask().double().mean().item()


def fired_latents(indices: Tensor, values: Tensor, n_latents: int) -> Tensor:
    """bool (n_latents,): true where a value of (B, k) `values` at `indices` is above zero."""
    shut_go_to_bin = torch.where(values > 0, indices, n_latents)
    fired = torch.zeros(n_latents + 1, dtype=torch.bool, device=indices.device)
    fired[shut_go_to_bin.view(-1)] = True
    return fired[:-1]
