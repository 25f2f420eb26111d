"""How many files does one open to follow one thing through the product?

    python -m benchmarks.ways                  # a table: files and functions of each way
    python -m benchmarks.ways --files worker   # one way, file by file, in the order it enters them
    python -m benchmarks.ways --check          # exit code 1 if a way enters more than its goal

Counted are the files of autoscaler/, ray_jobs/ and data/ in which a function runs while the thing
happens, on its thread or one that it starts; imports do not count, nor do the simulator and the
tests. The ways are the usual ones: nothing fails, one process, toy sizes, local storage.
At 406c763 the ways had 33, 11, 16, 15 and 14 files.
"""

import argparse
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractContextManager,
    contextmanager,
    nullcontext,
    redirect_stderr,
    redirect_stdout,
)
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from data.storage import Store
from ray_jobs.runtime.fit import WorkerContext
from ray_jobs.sae.loop import SAETask, Worker
from ray_jobs.waltzrl.models.world import WorldModelSize, build_world_model
from ray_jobs.waltzrl.training.stage import Stage
from tests import provider_rig as rig
from tests.pii_run import save_run
from tests.ray.training import CONFIG, prepared
from tests.ray.waltz_rig import SHORT, model_in, run_alone
from tests.reconciling.v2 import V2Monitor
from tests.reconciling.world import World

ROOT = Path(__file__).resolve().parents[1]
ROOMS = tuple(f"{ROOT}/{room}/" for room in ("autoscaler", "ray_jobs", "data"))
SIMULATOR = f"{ROOT}/autoscaler/simulator/"

Following = Callable[[], AbstractContextManager[None]]


class Followed:
    """The functions of the product that were entered, in order, by file."""

    def __init__(self) -> None:
        self.functions: dict[str, dict[str, None]] = {}

    def _enter(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(ROOMS):
            return
        if code.co_name != "<module>" and not code.co_filename.startswith(SIMULATOR):
            path = code.co_filename.removeprefix(f"{ROOT}/")
            self.functions.setdefault(path, {})[code.co_qualname] = None

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follows this thread, and threads that start within."""
        threading.setprofile(self._enter)
        sys.setprofile(self._enter)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)


def worker(folder: Path, following: Following) -> None:
    """From a demand, which a new monitor process finds, to a worker that has joined.

    Ray's autoscaler v2 and our provider, in virtual time; no ssh.
    """
    world = World(V2Monitor, simulation=rig.account())
    with world.living():
        world.ray_up()
        world.run_for(60.0)
        assert world.head is not None
        world.head.ray.demand = 1
        with following():
            world.restart_monitor()
            while not world.head.ray.running:
                world.run_for(5.0)
            world.run_for(30.0)
        world.ray_down()


def sae_step(folder: Path, following: Following) -> None:
    """One step of the SAE's training."""
    sae, _ = _sae_worker(folder)
    sae.take_step()
    with following():
        sae.take_step()
    sae.stream.close()


def checkpoint(folder: Path, following: Following) -> None:
    """The SAE's state, saved in the background and restored by the next start of the training."""
    sae, make = _sae_worker(folder)
    sae.take_step()
    with following():
        sae.saving.save_if_due(sae.step, epoch_ends=True)
        sae.saving.settle()
    again = make()
    with following():
        again.restore()
    assert again.step == sae.step
    for each in (sae, again):
        each.stream.close()


def _sae_worker(folder: Path) -> tuple[Worker, Callable[[], Worker]]:
    """A worker at step 0, and what makes another one over the same storage."""
    data = prepared(folder / "activations")
    task = SAETask(
        config=CONFIG,
        train=data.activations["train"],
        held_out=data.activations["validation"],
        checkpoints=Store.open(str(folder / "checkpoints")),
        output=Store.open(str(folder)),
        cache_dir=None,
        price_cents_per_hour=None,
        identity={"code_sha256": "a"},
    )

    def make() -> Worker:
        return Worker(task, WorkerContext(0, 1, torch.device("cpu"), lambda _: None))

    made = make()
    made.restore()
    return made, make


def waltz_step(folder: Path, following: Following) -> None:
    """One step of WaltzRL's stage 2: both agents talk, are judged, and learn."""
    build_world_model(folder / "model", seed=0, size=WorldModelSize(steps=20))
    take_step = Stage._take_step

    def followed(stage: Stage, *arguments: Any) -> None:
        with following() if stage.number == 2 else nullcontext():
            take_step(stage, *arguments)

    config = replace(SHORT, stage1_steps=1, max_steps=1)
    Stage._take_step = followed  # type: ignore[method-assign]
    try:
        run_alone(config, model_in(folder / "model"), folder / "run")
    finally:
        Stage._take_step = take_step  # type: ignore[method-assign]


def detection(folder: Path, following: Following) -> None:
    """The personal data in a text, found by a detector that is loaded."""
    detector = save_run(folder).detector
    with following():
        detector.detect("rain table Alice river bread.12@mail.org music")


GOALS: dict[Callable[[Path, Following], None], int] = {
    worker: 24,
    sae_step: 8,
    waltz_step: 12,
    checkpoint: 12,
    detection: 10,
}
"""The most files that a reader should have to open."""

WAYS = {way.__name__: way for way in GOALS}


def follow(name: str) -> dict[str, dict[str, None]]:
    """The functions that a way runs, by file, both in the order of entry."""
    followed = Followed()
    with (
        tempfile.TemporaryDirectory(prefix="ways-") as folder,
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        WAYS[name](Path(folder), followed.following)
    return followed.functions


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--files", choices=WAYS, metavar="WAY", help=f"one of {', '.join(WAYS)}")
    shown.add_argument("--check", action="store_true", help="exit code 1 above a goal")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    if options.files:
        for path, functions in follow(options.files).items():
            print(f"{path}\n    {', '.join(functions)}")
        return 0
    too_long = False
    print("| way | files | goal | functions |\n|---|---|---|---|")
    for name, way in WAYS.items():
        found = follow(name)
        too_long |= len(found) > GOALS[way]
        functions = sum(map(len, found.values()))
        print(f"| {name} | {len(found)} | {GOALS[way]} | {functions} |", flush=True)
    return int(options.check and too_long)


if __name__ == "__main__":
    sys.exit(main())
