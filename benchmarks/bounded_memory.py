"""Peak memory of harvest and stream for a data set and for one ten times its size.

    python -m benchmarks.bounded_memory

Every figure comes from processes of its own, as the kernel counts it (VmHWM, and for the
harvest of driver and actor each). Exit code 1 if a peak grows by more than a tenth.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

GROWTH_LIMIT = 1.10
FACTOR = 10
SHARD_ROWS = 2048
D_IN = 384
STREAM_SHARDS = 40
HARVEST_DOCUMENTS = 600


class LazyDocuments(Sequence[str]):
    """Documents made when they are asked for, as from a memory-mapped file."""

    def __init__(self, numbers: range) -> None:
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, key):  # type: ignore[override]
        if isinstance(key, slice):
            return LazyDocuments(self._numbers[key])
        number = self._numbers[key]
        return f"Customer {number} lives in street {number * 7} and asks for a call. " * 3


def peak_bytes(pid: int) -> int:
    """High-water mark of a process's resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def actor_pids() -> Iterator[int]:
    """Harvesting actors of this user that descend from this process."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if command.startswith("ray::Harvester") and os.getpid() in ancestors(int(folder.name)):
            yield int(folder.name)


def ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        yield pid


def measure_harvest(folder: Path, factor: int) -> dict[str, int]:
    import ray

    from data.storage import Store
    from ray_jobs.activations.harvest import HarvestProgress, harvest
    from ray_jobs.activations.host_files import MINILM

    actors: list[int] = []

    def watch(_: HarvestProgress) -> None:
        actors.extend(peak_bytes(pid) for pid in actor_pids())

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    harvest(
        LazyDocuments(range(HARVEST_DOCUMENTS * factor)),
        data_sha256=f"{factor}",
        model=MINILM,
        layer=3,
        store=Store.open(str(folder)),
        shard_rows=SHARD_ROWS,
        on_progress=watch,
    )
    driver = peak_bytes(os.getpid())
    ray.shutdown()
    return {"harvest, driver": driver, "harvest, actor": max(actors)}


def measure_stream(folder: Path, factor: int) -> dict[str, int]:
    import torch

    from data.storage import Store
    from ray_jobs.activations.harvester import commit_shard
    from ray_jobs.activations.manifest import SetManifest, SetSpec
    from ray_jobs.activations.shards import ActivationSet, Rows
    from ray_jobs.activations.stream import ActivationStream

    store = Store.open(str(folder))
    numbers = torch.arange(SHARD_ROWS, dtype=torch.int32)
    entries = []
    for index in range(STREAM_SHARDS * factor):
        values = torch.randn(SHARD_ROWS, D_IN, generator=torch.Generator().manual_seed(index))
        rows = Rows(values.bfloat16(), numbers, numbers.clone(), numbers + 1, numbers < 0)
        entries.append(commit_shard(store, index, rows).entry())
    spec = SetSpec("none", "random", "0", 1, "float32", "0", SHARD_ROWS)
    n_rows = SHARD_ROWS * len(entries)
    manifest = SetManifest(spec, D_IN, 1, n_rows, 0, 0, None, [0.0] * D_IN, 1.0, entries)
    stream = ActivationStream(ActivationSet(store, manifest), batch_size=1024, seed=0)
    for step in range(stream.steps_per_epoch + 1):
        stream.batch(step)
    stream.close()
    return {"shuffle and stream": peak_bytes(os.getpid())}


MEASURES = {"harvest": measure_harvest, "stream": measure_stream}


def measured(stage: str, factor: int) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.bounded_memory", stage, str(factor), folder],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", nargs="?", choices=MEASURES)
    parser.add_argument("factor", nargs="?", type=int)
    parser.add_argument("folder", nargs="?", type=Path)
    options = parser.parse_args()
    if options.stage:
        print(json.dumps(MEASURES[options.stage](options.folder, options.factor)))
        return 0
    grown = False
    for stage in MEASURES:
        small, large = measured(stage, 1), measured(stage, FACTOR)
        for name, before in small.items():
            ratio = large[name] / before
            grown |= ratio > GROWTH_LIMIT
            print(
                f"{name:20} {before / 2**20:7.0f} MiB -> {large[name] / 2**20:7.0f} MiB "
                f"for {FACTOR}x the data ({ratio:.3f})"
            )
    return int(grown)


if __name__ == "__main__":
    sys.exit(main())
