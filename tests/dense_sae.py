"""The SAE's loss written out with dense latents and plain autograd: what ours must equal."""

import torch
from torch import Tensor

from ray_jobs.sae.model import SAEOutput, TopKSAE

PARAMETERS = ("W_enc", "b_enc", "W_dec", "b_dec")


def random_sae(d_in: int, n_latents: int, k: int, seed: int = 0, **options: object) -> TopKSAE:
    """In float64, every parameter random, so that no term of a gradient vanishes."""
    sae = TopKSAE(d_in, n_latents, k, seed=seed, **options).double()
    generator = torch.Generator().manual_seed(seed + 1)
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    sae.normalise_decoder()
    return sae


def random_batch(rows: int, d_in: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 100)
    return torch.randn(rows, d_in, generator=generator, dtype=torch.float64)


def dense_loss(sae: TopKSAE, x: Tensor, chosen: Tensor) -> Tensor:
    """The definition, written out with dense latents: only which entries are top-k is given."""
    pre = torch.relu((x - sae.b_dec) @ sae.W_enc.T + sae.b_enc)
    top = torch.zeros_like(pre).scatter(1, chosen, 1.0)
    reconstruction = (pre * top) @ sae.W_dec + sae.b_dec
    loss = (reconstruction - x).square().sum()
    dead = sae.dead_latents.mask()
    if dead.any() and sae.aux_k:
        error = (x - reconstruction).detach()
        among_dead = pre.masked_fill(~dead, -torch.inf)
        tried = among_dead.topk(min(sae.aux_k, int(dead.sum())), dim=1).indices
        latents = pre * torch.zeros_like(pre).scatter(1, tried, 1.0)
        loss = loss + sae.aux_weight * (error - latents @ sae.W_dec).square().sum()
    return loss / x.numel()


def gradients(sae: TopKSAE, loss: Tensor) -> dict[str, Tensor]:
    parameters = [getattr(sae, name) for name in PARAMETERS]
    return dict(zip(PARAMETERS, torch.autograd.grad(loss, parameters), strict=True))


def assert_equals_dense(sae: TopKSAE, x: Tensor) -> SAEOutput:
    out = sae(x)
    expected = dense_loss(sae, x, out.indices)
    torch.testing.assert_close(out.loss, expected, rtol=1e-12, atol=1e-12)
    ours, dense = gradients(sae, out.loss), gradients(sae, expected)
    for name in PARAMETERS:
        torch.testing.assert_close(ours[name], dense[name], rtol=1e-10, atol=1e-10, msg=name)
    return out
