"""Seconds that training stands still per checkpoint: in the background against synchronous.

    python benchmarks/checkpoint_stall.py [--size-mb 256] [--rounds 5]

Both ways take turns within one run, on a local directory and, when AWS_ENDPOINT_URL_S3 and
RAYLAMBDA_BENCH_BUCKET are set, in that bucket. Prints rows of a Markdown table.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from data.storage import Store
from ray_jobs.checkpoint import BackgroundSaver, CheckpointStore


@dataclass
class Times:
    stood_still_s: list[float] = field(default_factory=list)
    stored_s: list[float] = field(default_factory=list)

    def row(self, where: str, way: str, size_mb: int) -> str:
        still, stored = statistics.median(self.stood_still_s), statistics.median(self.stored_s)
        spread = f"{min(self.stood_still_s):.3f}-{max(self.stood_still_s):.3f}"
        return f"| {where} | {way} | {size_mb} | {still:.3f} | {spread} | {stored:.2f} |"


def make_state(size_mb: int) -> dict[str, torch.Tensor]:
    """A model and Adam's two moments: three equal parts of fp32."""
    generator = torch.Generator().manual_seed(0)
    length = size_mb * 1_000_000 // 4 // 3
    return {
        name: torch.randn(length, generator=generator)
        for name in ("weights", "exp_avg", "exp_avg_sq")
    }


def measure(uri: str, state: dict[str, torch.Tensor], rounds: int) -> dict[str, Times]:
    """The first round, which allocates and warms up, is left out."""
    store = Store.open(uri)
    checkpoints = CheckpointStore(store, keep=1)
    saver = BackgroundSaver(checkpoints, attempt="background")
    ways = {"synchronous": Times(), "background": Times()}
    for step in range(rounds + 1):
        start = time.perf_counter()
        checkpoints.save(2 * step, state, attempt="synchronous", metadata={})
        synchronous_s = time.perf_counter() - start
        start = time.perf_counter()
        saver.submit(2 * step + 1, state, {})
        still_s = time.perf_counter() - start
        saver.wait()
        stored_s = time.perf_counter() - start
        if step > 0:
            ways["synchronous"].stood_still_s.append(synchronous_s)
            ways["synchronous"].stored_s.append(synchronous_s)
            ways["background"].stood_still_s.append(still_s)
            ways["background"].stored_s.append(stored_s)
    saver.close()
    store.delete_tree("")
    return ways


@contextmanager
def check_output_locations() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(prefix="checkpoint-stall-") as directory:
        found = {"file://": directory}
        bucket = os.environ.get("RAYLAMBDA_BENCH_BUCKET")
        if os.environ.get("AWS_ENDPOINT_URL_S3") and bucket:
            found["s3://"] = f"s3://{bucket}/checkpoint-stall-{uuid.uuid4().hex[:8]}"
        yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size-mb", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    state = make_state(options.size_mb)
    print("| where | way | MB | stood still, s (median) | range | until committed, s |")
    print("|---|---|---|---|---|---|")
    with check_output_locations() as found:
        for where, uri in found.items():
            ways = measure(uri, state, options.rounds)
            for way, times in ways.items():
                print(times.row(where, way, options.size_mb))
            ratio = statistics.median(ways["synchronous"].stood_still_s) / statistics.median(
                ways["background"].stood_still_s
            )
            sys.stderr.write(f"{where}: {ratio:.0f} times less standing still\n")


if __name__ == "__main__":
    main()
