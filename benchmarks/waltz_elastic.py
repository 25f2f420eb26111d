"""Does a WaltzRL training whose workers come and go end like one of a fixed number?

    python -m benchmarks.waltz_elastic [--seed 0]

The embedded world's `toy` recipe from one base model, on a Ray of nodes with room for one worker
each: one worker, two, and one to two, where the second node joins in stage 1 and is lost in stage
2. Prints Markdown. The world is invented: the figures say nothing about a real model's safety.
"""

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from data.storage import Store
from ray_jobs.runtime import fit as runtime
from ray_jobs.waltzrl.job import MODEL_SEED
from ray_jobs.waltzrl.models.world import build_world_model
from ray_jobs.waltzrl.recipes import toy
from tests.ray.training import Lines
from tests.ray.waltz_rig import train

RESIZE_INTERVAL_S = 5.0
"""A minute is a large part of a run as short as these."""
FAULTS = ("asr", "orr", "asr_c0", "orr_c0")
OnLine = Callable[[Cluster, str], None]


def nothing(cluster: Cluster, line: str) -> None:
    """The nodes stay as they are."""


class ComesAndGoes:
    """A node that joins when stage 1 is under way and is lost when stage 2 has a checkpoint."""

    def __init__(self) -> None:
        self._node: Any = None
        self._in_stage_2 = self._gone = False

    def __call__(self, cluster: Cluster, line: str) -> None:
        self._in_stage_2 |= line.startswith("waltz  stage 2")
        if self._node is None and line.startswith("waltz  stage 1"):
            self._node = cluster.add_node(num_cpus=1)
        elif self._in_stage_2 and not self._gone and "checkpoint of step" in line:
            self._gone = True
            cluster.remove_node(self._node, allow_graceful=False)


@contextmanager
def nodes(number: int) -> Iterator[Cluster]:
    """A Ray of so many nodes with a CPU each."""
    # Without a port Ray looks for a free one. Hooks at exit can be set in the main thread only.
    head = {"num_cpus": 1, "include_dashboard": False, "dashboard_port": None}
    cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
    for _ in range(number - 1):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def run(folder: Path, base: Path, seed: int, workers: str, began: int, on_line: OnLine) -> str:
    """A row: the workers of each start, the faults at the end, minutes."""
    lines = Lines()
    start_s = time.monotonic()
    with nodes(began) as cluster:
        lines.on_line = lambda line: on_line(cluster, line)
        train(folder, base, replace(toy(), seed=seed), num_workers=workers)
    minutes = (time.monotonic() - start_s) / 60
    starts = re.findall(r"worker 0 of (\d+) runs", "\n".join(lines.lines))
    row = Store.open(str(folder)).read_json("evaluation.json")["waltzrl"]
    cells = (f"{x['value']:.1%} ({x['low']:.1%}-{x['high']:.1%})" for x in map(row.get, FAULTS))
    return f"| {workers} | {', '.join(starts)} | {' | '.join(cells)} | {minutes:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    runtime.RESIZE_INTERVAL_S = RESIZE_INTERVAL_S
    cases = (("1", 1, nothing), ("2", 2, nothing), ("1-2", 1, ComesAndGoes()))
    with tempfile.TemporaryDirectory(prefix="waltz-elastic-") as scratch:
        base = Path(scratch) / "model"
        build_world_model(base, seed=MODEL_SEED)
        sys.stdout.write(
            f"seed {seed}\n\n| workers | of each start | ASR | ORR | ASR of c0 | ORR of c0 "
            f"| minutes |\n{'|---' * 7}|\n"
        )
        for number, (workers, began, on_line) in enumerate(cases):
            folder = Path(scratch) / str(number)
            sys.stdout.write(run(folder, base, seed, workers, began, on_line) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
