"""How long does WaltzRL's training stand still for a checkpoint of both agents?

    python -m benchmarks.waltz_stall [--rounds 7] [--uri DIRECTORY]

Wall-clock seconds of what a training calls (`Saving`, with its check for spoilt weights), weights
and Adam's moments of both agents, in the background against waiting for the save, in turns, one
thread. Prints Markdown.
"""

import argparse
import statistics
import sys
import tempfile
import time
from typing import Any

import torch

from benchmarks.waltz_step import SHAPES, Shape, learner_of, our_step
from data.storage import Store
from ray_jobs.checkpoint import CheckpointStore
from ray_jobs.checkpoint.schedule import Saving
from ray_jobs.waltzrl.training.stage import check_finite


def standing_still(shape: Shape, rounds: int, uri: str) -> tuple[float, dict[str, list[float]]]:
    """Megabytes of both agents' states, and wall-clock seconds by way of saving."""
    learners = [learner_of(shape.model) for _ in range(2)]
    step = our_step(shape)
    for each in learners:
        each.policy._allocate_moments()
    ways: dict[str, list[float]] = {"synchronous": [], "background": []}

    def state() -> dict[str, Any]:
        agents = {f"agent {i}": each.policy.state(copy=False) for i, each in enumerate(learners)}
        return {"position": {"step": 0}, "agents": agents}

    saving = Saving(
        CheckpointStore(Store.open(uri), keep=1),
        *(0, state, {}, 1, 1e9),
        shared_out=True,
        check=check_finite,
    )
    for number in range(rounds + 1):
        start = time.perf_counter()
        saving.save_now(2 * number)
        middle = time.perf_counter()
        saving.save_if_due(2 * number + 1, epoch_ends=False)
        end = time.perf_counter()
        step(number)  # training goes on meanwhile
        saving.settle()
        if number > 0:
            ways["synchronous"].append(middle - start)
            ways["background"].append(end - middle)
    parameters = sum(p.numel() for p in shape.model().parameters())
    return 2 * 3 * 4 * parameters / 1e6, ways


def show_saves(rounds: int, uri: str) -> None:
    size_mb, ways = standing_still(SHAPES[1], rounds, uri)
    print("| way | MB | stood still, s (median) | range |\n|---|---|---|---|")
    for way, each in ways.items():
        shown = f"{min(each):.3f}-{max(each):.3f}"
        print(f"| {way} | {size_mb:.0f} | {statistics.median(each):.3f} | {shown} |")
    share = statistics.median(ways["background"]) / statistics.median(ways["synchronous"])
    sys.stdout.write(f"\nbackground / synchronous: {share:.3f}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--uri", help="where checkpoints go; default: a scratch directory")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="waltz-stall-") as scratch:
        show_saves(options.rounds, options.uri or scratch)


if __name__ == "__main__":
    main()
