"""How long is one full SAE training step, ours against plain PyTorch and three libraries?

Every contender does all that its own trainer does in a step: loss, backward, its clipping or
projection, Adam, decoder norm, count of what fired. They take turns, round after round, in one
process with one thread, and CPU-seconds are counted, so that what else the machine does falls
on all alike. Reported is the median.

    .venv-peers/bin/python benchmarks/sae_step.py [--rounds 11] [--shape 512,4096,32,1024]

runs in the peers' environment (benchmarks/requirements-peers.txt); prints Markdown.
"""

import argparse
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
warnings.filterwarnings("ignore")

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from ray_jobs.sae.model import TopKSAE, has_fast_bf16  # noqa: E402

SHAPES = ((512, 4096, 32, 1024), (512, 16384, 32, 1024), (1024, 8192, 64, 1024))
LEARNING_RATE = 2e-4
WARM_UP_STEPS = 2
Step = Callable[[Tensor], None]


def ours(d: int, n: int, k: int, dtype: torch.dtype) -> Step:
    sae = TopKSAE(d, n, k, aux_k=256, encoder_dtype=dtype)
    optimizer = torch.optim.Adam(sae.parameters(), lr=LEARNING_RATE, fused=True)

    def step(x: Tensor) -> None:
        out = sae(x)
        optimizer.zero_grad()
        out.loss.backward()
        nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        sae.normalise_decoder()
        sae.dead_latents.update(out.fired, len(x))

    return step


def naive(d: int, n: int, k: int) -> Step:
    """Dense latents and autograd throughout; otherwise the same as ours."""
    start = TopKSAE(d, n, k)
    W_enc, b_enc, W_dec, b_dec = (
        nn.Parameter(p.detach().clone())
        for p in (start.W_enc, start.b_enc, start.W_dec, start.b_dec)
    )
    optimizer = torch.optim.Adam([W_enc, b_enc, W_dec, b_dec], lr=LEARNING_RATE, fused=True)

    def step(x: Tensor) -> None:
        scores = F.relu(F.linear(x - b_dec, W_enc, b_enc))
        values, indices = scores.topk(k, dim=-1, sorted=False)
        latents = torch.zeros_like(scores).scatter_(-1, indices, values)
        loss = (latents @ W_dec + b_dec - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([W_enc, b_enc, W_dec, b_dec], 1.0)
        optimizer.step()
        with torch.no_grad():
            W_dec.div_(W_dec.norm(dim=1, keepdim=True))

    return step


def sparsify(d: int, n: int, k: int) -> Step:
    from sparsify import SparseCoder, SparseCoderConfig

    sae = SparseCoder(d, SparseCoderConfig(num_latents=n, k=k))
    optimizer = torch.optim.Adam(sae.parameters(), lr=LEARNING_RATE)
    fired = torch.zeros(n, dtype=torch.bool)

    def step(x: Tensor) -> None:
        sae.set_decoder_norm_to_unit_norm()
        out = sae(x)
        out.fvu.backward()
        fired[out.latent_indices.flatten()] = True
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()

    return step


def sae_lens(d: int, n: int, k: int, sparse: bool) -> Step:
    """Its default, dense; `sparse` needs decoder norms left alone to run on a CPU."""
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    config = TopKTrainingSAEConfig(
        d_in=d,
        d_sae=n,
        k=k,
        use_sparse_activations=sparse,
        rescale_acts_by_decoder_norm=not sparse,
    )
    sae = TopKTrainingSAE(config)
    sae.train()
    optimizer = torch.optim.Adam(sae.parameters(), lr=LEARNING_RATE)
    since_fired, frequency = torch.zeros(n), torch.zeros(n)
    dead = torch.zeros(n, dtype=torch.bool)

    def step(x: Tensor) -> None:
        out = sae.training_forward_pass(
            TrainStepInput(
                sae_in=x,
                dead_neuron_mask=dead,
                coefficients={},
                n_training_steps=1,
                is_logging_step=False,
            )
        )
        with torch.no_grad():
            firing = out.feature_acts.bool().float()
            fired = firing.sum(-2).bool()
            since_fired.add_(1)
            since_fired[fired.to_dense() if fired.is_sparse else fired] = 0
            frequency.add_(firing.sum(0))
        optimizer.zero_grad()
        out.loss.backward()
        nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()

    return step


def dictionary_learning(d: int, n: int, k: int) -> Step:
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=100_000, activation_dim=d, dict_size=n, k=k, layer=0, lm_name="none", device="cpu"
    )
    return lambda x: trainer.update(1, x)


def contenders(d: int, n: int, k: int) -> dict[str, Step]:
    return {
        "naive dense": naive(d, n, k),
        "ours fp32": ours(d, n, k, torch.float32),
        "ours bf16 encoder": ours(d, n, k, torch.bfloat16),
        f"eai-sparsify {version('eai-sparsify')}": sparsify(d, n, k),
        f"sae-lens {version('sae-lens')}": sae_lens(d, n, k, sparse=False),
        f"sae-lens {version('sae-lens')}, sparse": sae_lens(d, n, k, sparse=True),
        f"dictionary-learning {version('dictionary-learning')}": dictionary_learning(d, n, k),
    }


def encoder_matmul(d: int, n: int, batch: int) -> Step:
    """The floor: what no exact top-k over all latents can do without."""
    weights, result = torch.randn(n, d), torch.empty(n, batch)
    return lambda x: torch.mm(weights, x.t(), out=result)  # type: ignore[return-value]


def measure(shape: tuple[int, int, int, int], rounds: int) -> dict[str, list[float]]:
    """CPU-seconds of every step, by contender."""
    d, n, k, batch = shape
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(batch, d, generator=generator) for _ in range(4)]
    steps = {**contenders(d, n, k), "encoder matmul alone": encoder_matmul(d, n, batch)}
    for step in steps.values():
        for x in batches[:WARM_UP_STEPS]:
            step(x)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds):
        for name, step in steps.items():
            start = time.process_time()
            step(batches[turn % len(batches)])
            seconds[name].append(time.process_time() - start)
    return seconds


def table(shape: tuple[int, int, int, int], seconds: dict[str, list[float]]) -> str:
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    base = medians["naive dense"]
    d, n, k, batch = shape
    lines = [
        f"d {d}, n {n}, k {k}, B {batch}",
        "",
        "| step | ms CPU, median | fastest | tokens per CPU-s | naive / this | this / ours fp32 |",
        "|---|---|---|---|---|---|",
    ]
    for name, median in medians.items():
        lines.append(
            f"| {name} | {1e3 * median:.0f} | {1e3 * min(seconds[name]):.0f} "
            f"| {batch / median:,.0f} | {base / median:.2f} "
            f"| {median / medians['ours fp32']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--shape", help="d,n,k,B instead of the three")
    options = parser.parse_args()
    torch.set_num_threads(1)
    hardware = torch.cpu.get_capabilities()["cpu_name"]
    bf16 = "bf16 in hardware" if has_fast_bf16("cpu") else "no bf16 in hardware: emulated"
    print(
        f"{platform.machine()} {hardware}, {torch.backends.cpu.get_cpu_capability()}, {bf16}; "
        f"torch {torch.__version__}, 1 thread, {options.rounds} rounds\n"
    )
    chosen = (tuple(map(int, options.shape.split(","))),) if options.shape else SHAPES
    for shape in chosen:
        print(table(shape, measure(shape, options.rounds)), flush=True)


if __name__ == "__main__":
    main()
