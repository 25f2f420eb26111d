"""The SAE as a file for raw activations: `sae_final.pt`, `sae_epoch_N.pt`.

Training sees x_n = (x - mean) * scale. Folding that in changes the two biases alone:

    b_dec' = mean + b_dec / scale        b_enc' = b_enc / scale

since W_enc (x - b_dec') + b_enc' = (W_enc (x_n - b_dec) + b_enc) / scale: the same latents are
chosen, their values and the reconstruction are in the units of x, and W_dec keeps unit rows.
"""

from typing import Any

import torch
from torch import Tensor

from data.storage import Store
from ray_jobs.sae.model import TopKSAE

FORMAT = 1


def save_sae(store: Store, name: str, sae: TopKSAE, mean: Tensor, scale: float) -> None:
    """Write `sae` for raw activations as `name`; loads with `weights_only=True`. Idempotent."""
    weights = {key: value.detach().cpu() for key, value in sae.named_parameters()}
    weights["b_dec"] = mean + weights["b_dec"] / scale
    weights["b_enc"] = weights["b_enc"] / scale
    content: dict[str, Any] = {
        "format": FORMAT,
        "config": {"d_in": sae.d_in, "n_latents": sae.n_latents, "k": sae.k},
        "state_dict": {key: value.contiguous() for key, value in weights.items()},
    }
    store.write_stream(name, lambda out: torch.save(content, out))
