"""How much memory does a full SAE training step take at its peak, against dense latents?

Each contender runs a few steps of benchmarks/sae_step.py in a process of its own; counted is
the peak of resident memory over what the imports take. Weights and Adam's two moments stand
there between steps and are the same for both; the step itself is what comes on top of them:
gradients, latents, all that is made on the way.

    .venv/bin/python benchmarks/sae_memory.py

prints Markdown; fails if our step takes more than 0.6 of the naive one.
"""

import subprocess
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SHAPES = (
    (512, 4096, 32, 1024),
    (512, 16384, 32, 1024),
    (1024, 8192, 64, 1024),
    (512, 16384, 32, 4096),
)
CONTENDERS = ("naive dense", "ours fp32")
LIMIT = 0.6
STEPS = 3


def resident_bytes(field: str) -> int:
    """`VmRSS` (now) or `VmHWM` (peak) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {field}: run this on Linux")


def peak_bytes(contender: str, d: int, n: int, k: int, batch: int) -> int:
    """Peak resident memory of some steps in this process, over that of the imports."""
    import torch

    from benchmarks.sae_step import naive, ours

    torch.set_num_threads(1)
    make = naive if contender == "naive dense" else partial(ours, dtype=torch.float32)
    make(8, 16, 2)(torch.randn(4, 8))  # loads what PyTorch loads late, 70 MB of modules
    before = resident_bytes("VmRSS")
    step = make(d, n, k)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    for seed in range(STEPS):
        step(torch.randn(batch, d, generator=torch.Generator().manual_seed(seed)))
    return resident_bytes("VmHWM") - before


def peak_of_process(contender: str, shape: tuple[int, ...]) -> int:
    command = [sys.executable, __file__, contender, *map(str, shape)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return int(done.stdout.split()[-1])


def main() -> None:
    if len(sys.argv) > 1:
        print(peak_bytes(sys.argv[1], *map(int, sys.argv[2:])))
        return
    print(
        "| d, n, k, B | weights and Adam, MB | naive step, MB | our step, MB | ours / naive | all |"
    )
    print("|---|---|---|---|---|---|")
    worst = 0.0
    for shape in SHAPES:
        d, n, _, _ = shape
        standing = 3 * 4 * (2 * n * d + n + d)
        theirs, mine = (peak_of_process(contender, shape) for contender in CONTENDERS)
        ratio = (mine - standing) / (theirs - standing)
        worst = max(worst, ratio)
        print(
            f"| {', '.join(map(str, shape))} | {standing / 1e6:.0f} "
            f"| {(theirs - standing) / 1e6:.0f} | {(mine - standing) / 1e6:.0f} "
            f"| {ratio:.2f} | {mine / theirs:.2f} |",
            flush=True,
        )
    if worst > LIMIT:
        sys.exit(f"our step takes {worst:.2f} of the naive one, more than {LIMIT}")


if __name__ == "__main__":
    main()
