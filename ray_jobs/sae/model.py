"""`TopKSAE`: the TopK sparse autoencoder (Gao et al. 2024, arXiv:2406.04093), on any device.

`sae(x)` is a training step's forward pass (`SAEOutput`), `encode` and `decode` are what its users
call. Which latents are dead is part of its state (`DeadLatents`).
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data.errors import ConfigError
from ray_jobs.runtime.collectives import all_agree
from ray_jobs.sae.config import SAEConfig
from ray_jobs.sae.kernels.topk import StepOptions, TopKSquaredErrors, decode_sum, top_latents

AUX_WEIGHT = 1 / 32
DEAD_AFTER_TOKENS = 10_000_000


@dataclass(frozen=True)
class SAEOutput:
    """One batch (B, d) through the autoencoder. Only `loss` carries gradients."""

    loss: Tensor
    """Scalar: (squared_error + aux_weight * aux_squared_error) / (global batch * d)."""
    squared_error: Tensor
    """Scalar: sum over this batch of |x - reconstruction|^2."""
    aux_squared_error: Tensor
    """Scalar: what is left of that after the dead latents' attempt; 0 if none is dead."""
    indices: Tensor
    """(B, k) int64: the latents chosen, in no particular order."""
    values: Tensor
    """(B, k): their activations, >= 0."""
    residual: Tensor
    """(B, d): reconstruction - x."""
    x: Tensor
    """(B, d): the batch, in the parameters' dtype."""
    n_latents: int

    @property
    def reconstruction(self) -> Tensor:
        """(B, d)."""
        return self.x + self.residual

    @property
    def fvu(self) -> Tensor:
        """Scalar: fraction of this batch's variance left unexplained."""
        centred = self.x - self.x.mean(dim=0)
        return self.squared_error / centred.square().sum(dim=1).sum()

    @property
    def fired(self) -> Tensor:
        """bool (n_latents,): the latents with an activation above zero in this batch."""
        return fired_latents(self.indices, self.values, self.n_latents)


class TopKSAE(nn.Module):
    """`sae(x) -> SAEOutput` for activations x (B, d_in), centred and scaled to E|x|^2 = d_in.

    Latents are the k largest of relu((x - b_dec) W_enc^T + b_enc); the reconstruction is
    latents W_dec + b_dec. Rows of W_dec (n_latents, d_in) have unit norm: call
    `normalise_decoder()` after every optimizer step. The part of W_dec's gradient along its
    rows is not removed: renormalising undoes its effect on the weights, and taking it out
    would cost two more passes over the largest tensors. W_enc starts as a copy of W_dec.

    In training mode, `aux_k` > 0 adds the loss of the latents that did not fire for
    `dead_after_tokens` tokens; `dead_latents.update(...)` is the training loop's call.

    Raises ConfigError for sizes that cannot be, ValueError for a batch of the wrong shape.
    """

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        k: int,
        *,
        aux_k: int = 0,
        aux_weight: float = AUX_WEIGHT,
        dead_after_tokens: int = DEAD_AFTER_TOKENS,
        encoder_dtype: torch.dtype | None = None,
        seed: int = 0,
    ) -> None:
        """`encoder_dtype`: of the encoder's matmul (torch.bfloat16 for mixed precision);
        None follows the parameters. `seed` alone decides the initial weights."""
        super().__init__()
        _check_sizes(d_in, n_latents, k, aux_k)
        self.d_in, self.n_latents, self.k = d_in, n_latents, k
        self.aux_k, self.aux_weight = aux_k, aux_weight
        self.encoder_dtype = encoder_dtype
        directions = torch.randn(n_latents, d_in, generator=torch.Generator().manual_seed(seed))
        self.W_dec = nn.Parameter(directions)
        self.normalise_decoder()
        self.W_enc = nn.Parameter(self.W_dec.detach().clone())
        self.b_enc = nn.Parameter(torch.zeros(n_latents))
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.dead_latents = DeadLatents(n_latents, dead_after_tokens)

    def forward(self, x: Tensor, *, global_batch_size: int | None = None) -> SAEOutput:
        """`global_batch_size`: samples over all ranks, when x is one rank's share.

        The ranks' losses then add up to the loss of the whole batch whatever their shares, and
        so do the gradients. DistributedDataParallel averages: multiply by the world size.
        """
        x = self._checked(x)
        dead = self.dead_latents.indices() if self.training and self.aux_k else None
        squared_error, aux_squared_error, indices, values, residual = TopKSquaredErrors.apply(
            x,
            self.W_enc,
            self.b_enc,
            self.W_dec,
            self.b_dec,
            dead if dead is not None and len(dead) else None,
            self._options(),
        )
        samples = global_batch_size or len(x)
        loss = (squared_error + self.aux_weight * aux_squared_error) / (samples * self.d_in)
        return SAEOutput(
            loss,
            squared_error.detach(),
            aux_squared_error.detach(),
            indices,
            values,
            residual,
            x,
            self.n_latents,
        )

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values and indices (B, k) of the latents of x (B, d_in), without gradients."""
        centred = self._checked(x) - self.b_dec
        values, indices, _ = top_latents(centred, self.W_enc, self.b_enc, None, self._options())
        return values, indices

    def decode(self, indices: Tensor, values: Tensor) -> Tensor:
        """Reconstructions (B, d_in) of latents given as (B, k) indices and values."""
        return decode_sum(indices, values, self.W_dec) + self.b_dec

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Scale every row of W_dec to unit norm, in place."""
        self.W_dec.div_(torch.linalg.vector_norm(self.W_dec, dim=1, keepdim=True))

    @property
    def fingerprint(self) -> str:
        """sha256 over the weights in hexadecimal: which SAE a classifier was trained on."""
        digest = hashlib.sha256(f"{self.d_in} {self.n_latents} {self.k}".encode())
        for name, value in sorted(self.named_parameters()):
            digest.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def _options(self) -> StepOptions:
        return StepOptions(self.k, self.aux_k, self.encoder_dtype or self.W_enc.dtype)

    def _checked(self, x: Tensor) -> Tensor:
        if x.ndim != 2 or x.shape[1] != self.d_in:
            raise ValueError(
                f"x has shape {tuple(x.shape)}: the SAE takes (batch, {self.d_in}); "
                "flatten sequences to one row per token"
            )
        return x.to(self.W_enc.dtype)


def _check_sizes(d_in: int, n_latents: int, k: int, aux_k: int) -> None:
    if d_in < 1:
        raise ConfigError("d_in", f"{d_in} is not a width: give at least 1")
    if n_latents < 1:
        raise ConfigError("n_latents", f"{n_latents} is not a number of latents: give at least 1")
    if not 1 <= k <= n_latents:
        raise ConfigError("k", f"{k} is not between 1 and n_latents ({n_latents})")
    if aux_k < 0:
        raise ConfigError("aux_k", f"{aux_k} is below 0")


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


def build_sae(config: SAEConfig, d_in: int, device: torch.device) -> TopKSAE:
    """The SAE before its first step, on `device`; the same for every process."""
    return TopKSAE(
        d_in,
        config.n_latents,
        config.k,
        aux_k=config.aux_k,
        aux_weight=config.aux_weight,
        dead_after_tokens=config.dead_after_tokens,
        seed=config.seed,
    ).to(device)


def mixed_precision(config: SAEConfig, device: torch.device) -> bool:
    """Whether the encoder multiplies in bf16: as asked, else where it is fast. Collective.

    Where only some ranks have bf16 none uses it: parts of one batch must not differ in kind.
    """
    asked = config.enable_mixed_precision
    return all_agree(has_fast_bf16(device)) if asked is None else asked


def has_fast_bf16(device: torch.device | str) -> bool:
    """Whether `device` multiplies bf16 matrices in hardware, not by emulation."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
