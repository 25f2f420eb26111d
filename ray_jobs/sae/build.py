"""A fresh autoencoder from a config."""

import torch

from ray_jobs.runtime.collectives import all_agree
from ray_jobs.sae.config import SAEConfig
from ray_jobs.sae.model import TopKSAE, has_fast_bf16


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
