"""The SAE as a file for raw activations, written and read: `sae_final.pt`, `sae_epoch_N.pt`.

Training sees x_n = (x - mean) * scale. Folding that in changes the two biases alone:

    b_dec' = mean + b_dec / scale        b_enc' = b_enc / scale

since W_enc (x - b_dec') + b_enc' = (W_enc (x_n - b_dec) + b_enc) / scale: the same latents are
chosen, their values and the reconstruction are in the units of x, and W_dec keeps unit rows.
"""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from data.errors import ConfigError, DataError
from data.storage import Store
from ray_jobs.activations.sinks import SinkRule
from ray_jobs.sae.model import TopKSAE

FORMAT = 1


def save_sae(
    store: Store,
    name: str,
    sae: TopKSAE,
    mean: Tensor,
    scale: float,
    sinks: SinkRule | None = None,
) -> None:
    """Write `sae` for raw activations as `name`; loads with `weights_only=True`. Idempotent.

    `sinks` are the tokens that it was not trained on: the file's `not_for` has their rule, the
    distance `radius` from `centre` (d_in,) beyond which they lie.
    """
    weights = {key: value.detach().cpu() for key, value in sae.named_parameters()}
    weights["b_dec"] = mean + weights["b_dec"] / scale
    weights["b_enc"] = weights["b_enc"] / scale
    content: dict[str, Any] = {
        "format": FORMAT,
        "config": {"d_in": sae.d_in, "n_latents": sae.n_latents, "k": sae.k},
        "state_dict": {key: value.contiguous() for key, value in weights.items()},
    }
    if sinks is not None:
        content["not_for"] = {"centre": sinks.centre, "radius": sinks.radius}
    store.write_stream(name, lambda out: torch.save(content, out))


def load_sae(path: str | Path) -> TopKSAE:
    """The SAE of a `sae_final.pt` or `sae_epoch_N.pt`, on the CPU, in evaluation mode.

    Raises DataError, in one line, for what is no such file.
    """
    try:
        with open(path, "rb") as file:
            # What else unpickling might raise on any file's bytes has no end.
            if not is_zipfile(file):
                raise ValueError("not written by torch.save, or cut short")
        content = torch.load(path, map_location="cpu", weights_only=True)
        sae = TopKSAE(**content["config"])
        # A finished SAE carries weights, not the training's counters.
        sae.load_state_dict({**dict(sae.named_buffers()), **content["state_dict"]})
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; give the sae_final.pt of a run") from None
    except _NOT_AN_SAE as error:
        # Torch would advise to load it without that guard.
        said = "more than weights" if isinstance(error, UnpicklingError) else str(error)
        problem = said.strip().split("\n", 1)[0]
        raise DataError(f"{path}: not an SAE of this project ({problem})") from error
    return sae.eval()


_NOT_AN_SAE = (
    ConfigError,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    UnpicklingError,
    ValueError,
)
"""What reading a file that is something else, or cut short, can raise."""
