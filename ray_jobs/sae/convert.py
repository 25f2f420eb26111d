"""A finished SAE in the formats of SAELens and EleutherAI's sparsify.

    python -m ray_jobs.sae.convert runs/demo/sae_final.pt --to sae-lens --output-dir out/

Both read a folder with `cfg.json` and a safetensors file; the latents they compute from raw
activations are ours (benchmarks/export_peers.py compares them).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from data.command_line import OneLineParser, run_main
from data.storage import Store

# What needs PyTorch is imported where it is used, so that the command line answers at once.
if TYPE_CHECKING:
    from torch import Tensor

    from ray_jobs.sae.model import TopKSAE

SAE_LENS_VERSION = "6.54.12"
"""The version whose format this is; it reads what names an older one as an older format."""


def write_sae_lens(store: Store, sae: TopKSAE) -> None:
    """For `sae_lens.SAE.load_from_disk(folder)`. Idempotent."""
    from safetensors.torch import save

    weights = _weights(sae)
    weights["W_enc"] = weights["W_enc"].t().contiguous()
    config = {
        "architecture": "topk",
        "d_in": sae.d_in,
        "d_sae": sae.n_latents,
        "k": sae.k,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": {"sae_lens_version": SAE_LENS_VERSION},
    }
    store.write_bytes("sae_weights.safetensors", save(weights))
    store.write_json("cfg.json", config)


def write_sparsify(store: Store, sae: TopKSAE) -> None:
    """For `sparsify.SparseCoder.load_from_disk(folder)`. Idempotent."""
    from safetensors.torch import save

    weights = _weights(sae)
    weights["encoder.weight"] = weights.pop("W_enc")
    weights["encoder.bias"] = weights.pop("b_enc")
    config = {
        "activation": "topk",
        "d_in": sae.d_in,
        "num_latents": sae.n_latents,
        "k": sae.k,
        "normalize_decoder": True,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
    }
    store.write_bytes("sae.safetensors", save(weights))
    store.write_json("cfg.json", config)


FORMATS: Mapping[str, Callable[[Store, TopKSAE], None]] = {
    "sae-lens": write_sae_lens,
    "sparsify": write_sparsify,
}


def main(argv: list[str]) -> None:
    """The command line; raises DataError for what is no SAE file."""
    parser = OneLineParser(prog="python -m ray_jobs.sae.convert", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("sae", help="a sae_final.pt or sae_epoch_N.pt")
    parser.add_argument("--to", required=True, choices=FORMATS, help="whose format")
    parser.add_argument("--output-dir", required=True, help="folder or URI to write to")
    options = parser.parse_args(argv)
    from ray_jobs.sae.export import load_sae

    sae = load_sae(options.sae)
    store = Store.open(options.output_dir)
    FORMATS[options.to](store, sae)
    sys.stdout.write(f"{options.to}: {store.label}\n")


def _weights(sae: TopKSAE) -> dict[str, Tensor]:
    return {name: value.detach().float().cpu() for name, value in sae.named_parameters()}


if __name__ == "__main__":
    run_main(main)
