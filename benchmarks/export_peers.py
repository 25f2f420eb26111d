"""Do SAELens and sparsify compute our latents from the files we convert for them?

    .venv-peers/bin/python benchmarks/export_peers.py [runs/demo/sae_final.pt]

runs in the peers' environment (benchmarks/requirements-peers.txt). Without a file it trains a
small SAE on unevenly scaled, off-centre activations first, so that the folded centring and
scaling matter. Prints Markdown; fails if a latent or a reconstruction differs.
"""

import os
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
warnings.filterwarnings("ignore")

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from data.storage import Store  # noqa: E402
from ray_jobs.sae.convert import write_sae_lens, write_sparsify  # noqa: E402
from ray_jobs.sae.export import load_sae, save_sae  # noqa: E402
from ray_jobs.sae.model import TopKSAE  # noqa: E402

ROWS = 2048
TOLERANCE = 1e-4
"""Of the largest value: the libraries sum the same products in other orders."""


def activations(d_in: int, generator: torch.Generator) -> Tensor:
    """(ROWS, d_in) raw activations around a mean that is not zero."""
    mean = 3.0 * torch.randn(d_in, generator=torch.Generator().manual_seed(1))
    return mean + 0.2 * torch.randn(ROWS, d_in, generator=generator)


def trained_sae(folder: Path) -> Path:
    """`sae_final.pt` of a few hundred steps, 64 -> 512 latents."""
    generator = torch.Generator().manual_seed(0)
    raw = activations(64, generator)
    mean = raw.mean(dim=0)
    scale = 1.0 / (raw - mean).square().mean().sqrt().item()
    sae = TopKSAE(64, 512, 16)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-3)
    for _ in range(200):
        out = sae((activations(64, generator) - mean) * scale)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        sae.normalise_decoder()
    save_sae(Store.open(str(folder)), "sae_final.pt", sae, mean, scale)
    return folder / "sae_final.pt"


def dense(indices: Tensor, values: Tensor, n_latents: int) -> Tensor:
    """(B, n) of the (B, k) latents."""
    return torch.zeros(len(indices), n_latents).scatter(1, indices, values.float())


@torch.no_grad()
def compared(path: Path, folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Latents (B, n) and reconstructions (B, d) by library; ours under 'ours'."""
    from sae_lens import SAE
    from sparsify import SparseCoder

    sae = load_sae(path)
    x = activations(sae.d_in, torch.Generator().manual_seed(2))
    values, indices = sae.encode(x)
    write_sae_lens(Store.open(str(folder / "sae_lens")), sae)
    write_sparsify(Store.open(str(folder / "sparsify")), sae)
    lens = SAE.load_from_disk(folder / "sae_lens")
    coder = SparseCoder.load_from_disk(folder / "sparsify")
    latents = lens.encode(x)
    coded = coder.encode(x)
    return {
        "ours": (dense(indices, values, sae.n_latents), sae.decode(indices, values)),
        f"sae-lens {version('sae-lens')}": (latents, lens.decode(latents)),
        f"eai-sparsify {version('eai-sparsify')}": (
            dense(coded.top_indices, coded.top_acts, sae.n_latents),
            coder.decode(coded.top_acts, coded.top_indices),
        ),
    }


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else trained_sae(folder)
        results = compared(path, folder)
    latents, reconstruction = results.pop("ours")
    print("| library | tokens | largest difference of a latent | of a reconstruction |")
    print("|---|---|---|---|")
    worst = 0.0
    for library, (theirs, rebuilt) in results.items():
        of_latents = ((theirs - latents).abs().max() / latents.max()).item()
        of_x = ((rebuilt - reconstruction).abs().max() / reconstruction.abs().max()).item()
        print(f"| {library} | {len(theirs)} | {of_latents:.1e} | {of_x:.1e} |")
        worst = max(worst, of_latents, of_x)
    if worst > TOLERANCE:
        sys.exit(f"latents differ by {worst:.1e} of the largest: more than {TOLERANCE}")


if __name__ == "__main__":
    main()
