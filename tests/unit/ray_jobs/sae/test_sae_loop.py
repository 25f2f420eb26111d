"""The training loop in this process, without Ray: what it computes, keeps, and says."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from data.errors import NonFiniteError
from data.storage import Store
from ray_jobs.activations.prepare import Prepared
from ray_jobs.checkpoint import CheckpointStore
from ray_jobs.results.run_directory import MANIFEST, is_complete, write_manifest
from ray_jobs.runtime.fit import WorkerContext
from ray_jobs.runtime.options import JobOptions
from ray_jobs.sae import job as sae_train
from ray_jobs.sae import model as build
from ray_jobs.sae.config import SAEConfig
from ray_jobs.sae.job import finish_run, train_sae
from ray_jobs.sae.loop import SAETask, Worker, train_at
from ray_jobs.sae.model import has_fast_bf16
from tests.dense_sae import PARAMETERS, dense_loss
from tests.ray.training import CONFIG, prepared

SHORT = replace(CONFIG, epochs=1)
"""100 steps, a checkpoint due every 20, a check every 25."""


class Stopped(Exception):
    """Ends a training from outside."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepared(tmp_path_factory.mktemp("activations"))


def place(report: Callable[[dict[str, Any]], None] = lambda _: None) -> WorkerContext:
    return WorkerContext(0, 1, torch.device("cpu"), report)


def task(folder: Path, data: Prepared, config: SAEConfig = SHORT, code: str = "a") -> SAETask:
    return SAETask(
        config=config,
        train=data.activations["train"],
        held_out=data.activations["validation"],
        checkpoints=Store.open(str(folder / "checkpoints")),
        output=Store.open(str(folder)),
        cache_dir=None,
        price_cents_per_hour=None,
        identity={"code_sha256": code},
    )


def a_checkpoint_of(folder: Path, after: int = 0) -> tuple[int, dict[str, Any]]:
    """Step and state of the newest, once there is one of a step later than `after`: they are
    stored in the background."""
    store = CheckpointStore(Store.open(str(folder / "checkpoints")))
    deadline_s = time.monotonic() + 60
    while (found := store.load_newest()) is None or found[0].step <= after:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    return found[0].step, found[1]


def stop_at(step: int, folder: Path, after: int = 0) -> Callable[[dict[str, Any]], None]:
    """A report that breaks the training off at a check, with a checkpoint behind it."""

    def report(check: dict[str, Any]) -> None:
        if check["step"] == step:
            a_checkpoint_of(folder, after)
            raise Stopped

    return report


def test_steps_equal_a_slow_reference_of_schedule_clipping_and_adam(
    tmp_path: Path, data: Prepared
) -> None:
    config = replace(SHORT, clip_norm=0.1, learning_rate=1e-2, dead_after_tokens=200)
    worker, reference = (Worker(task(tmp_path / n, data, config), place()) for n in "ab")
    sae = reference.sae.double()
    moments = {name: torch.zeros(2, *getattr(sae, name).shape).double() for name in PARAMETERS}
    clipped = 0
    for step in range(30):
        # Warm-up over 5 steps, then half a cosine over the other 95.
        warm = (step + 1) / 5 if step < 5 else (1 + math.cos(math.pi * (step - 5) / 95)) / 2
        x = reference.stream.batch(step).double()
        values, chosen = sae.encode(x)
        sae.zero_grad()
        dense_loss(sae, x, chosen).backward()
        grads = {name: getattr(sae, name).grad for name in PARAMETERS}
        norm = math.sqrt(sum(float(grad.square().sum()) for grad in grads.values()))
        clipped += norm > 0.1
        for name, grad in grads.items():
            first, second = moments[name]
            grad = grad * min(1.0, 0.1 / norm)
            first.mul_(0.9).add_(0.1 * grad)
            second.mul_(0.999).add_(0.001 * grad.square())
            mean, square = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
            getattr(sae, name).data -= 1e-2 * warm * mean / (square.sqrt() + 1e-8)
        sae.W_dec.data /= sae.W_dec.data.norm(dim=1, keepdim=True)
        fired = torch.zeros(sae.n_latents, dtype=torch.bool)
        fired[chosen[values > 0]] = True
        sae.dead_latents.update(fired, config.batch_size)
        worker.take_step()
    assert clipped == 30 and 0 < worker.sae.dead_latents.share() < 1
    for name in PARAMETERS:
        found, expected = getattr(worker.sae, name).double(), getattr(sae, name)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-4, msg=name)
    for each in (worker, reference):
        each.stream.close()


def test_an_infinite_gradient_of_a_finite_loss_is_named_and_nothing_of_it_is_kept(
    tmp_path: Path, data: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, taken = torch.nn.utils.clip_grad_norm_, []

    def overflowing(parameters: Any, *args: Any) -> torch.Tensor:
        parameters = list(parameters)
        taken.append(len(taken))
        if len(taken) == 47:
            a_checkpoint_of(tmp_path)
            parameters[0].grad[3, 1] = torch.inf
        return clip(parameters, *args)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", overflowing)
    with pytest.raises(NonFiniteError, match="not finite at step 47: the last checkpoint before"):
        train_at(place(), task(tmp_path, data))
    step, state = a_checkpoint_of(tmp_path)
    assert 20 <= step < 47
    assert all(torch.isfinite(state["sae"][name]).all() for name in PARAMETERS)
    assert not list(tmp_path.glob("*.pt"))


def test_the_choice_of_precision_is_made_once_for_all_ranks_and_starts(
    tmp_path: Path, data: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hardware = replace(SHORT, enable_mixed_precision=None)
    monkeypatch.setattr(build, "has_fast_bf16", lambda _: True)
    with pytest.raises(Stopped):
        train_at(place(stop_at(75, tmp_path)), task(tmp_path, data, by_hardware))
    # It goes on where there is no bf16, and where the other ranks have none.
    monkeypatch.setattr(build, "has_fast_bf16", lambda _: False)
    worker = Worker(task(tmp_path, data, by_hardware), place())
    worker.restore()
    worker.stream.close()
    assert 20 <= worker.step <= 75
    assert worker.sae.encoder_dtype == torch.bfloat16 and worker.history.mixed_precision
    monkeypatch.setattr(build, "has_fast_bf16", lambda _: True)
    monkeypatch.setattr(build, "all_agree", lambda here: not here)
    assert not build.mixed_precision(by_hardware, torch.device("cpu"))
    monkeypatch.undo()
    for asked in (True, False):
        config = replace(SHORT, enable_mixed_precision=asked)
        assert build.mixed_precision(config, torch.device("cpu")) is asked
    cpu = torch.device("cpu")
    assert build.mixed_precision(by_hardware, cpu) == has_fast_bf16(cpu)


def one_of_two(rank: int, meeting: str, its_task: SAETask, stop: int, folder: Path) -> None:
    """A rank of a group of two, which is broken off at a check; `stop` 0: not at all."""
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    with suppress(Stopped):
        train_at(WorkerContext(rank, 2, torch.device("cpu"), stop_at(stop, folder)), its_task)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_ranks_one_and_two_again_end_as_one(tmp_path: Path, data: Prepared) -> None:
    elastic = tmp_path / "elastic"
    its_task, steps = task(elastic, data, CONFIG), []
    for part, stop in (("first", 75), ("last", 0)):
        meeting = f"file://{tmp_path}/{part}"
        spawn(one_of_two, (meeting, its_task, stop, elastic), nprocs=2)
        steps.append(a_checkpoint_of(elastic)[0])
        if stop:
            with pytest.raises(Stopped):
                train_at(place(stop_at(150, elastic, after=75)), its_task)
            steps.append(a_checkpoint_of(elastic)[0])
    assert 0 < steps[0] <= 75 < steps[1] <= 150 and steps[2] == 300
    train_at(place(), task(tmp_path / "alone", data, CONFIG))
    found, expected = (
        Store.open(str(folder)).read_json("training_history.json")
        for folder in (elastic, tmp_path / "alone")
    )
    assert found["steps"] == expected["steps"]
    torch.testing.assert_close(
        torch.tensor(found["losses"]), torch.tensor(expected["losses"]), rtol=0, atol=1e-5
    )


def test_memory_does_not_grow_with_the_steps(tmp_path: Path, data: Prepared) -> None:
    config = replace(CONFIG, batch_size=640, epochs=40, eval_every_steps=100)
    anonymous_kib: list[int] = []

    def look(_: dict[str, Any]) -> None:
        status = Path("/proc/self/status").read_text()
        anonymous_kib.append(int(status.split("RssAnon:")[1].split()[0]))

    train_at(place(look), task(tmp_path, data, config))
    assert len(anonymous_kib) == 4
    # Keeping the activations of each batch would take 80 KiB a step: 16 MiB.
    assert max(anonymous_kib[2:]) - anonymous_kib[1] < 8 * 1024


def test_history_and_manifest_name_all_code_that_took_steps(tmp_path: Path, data: Prepared) -> None:
    with pytest.raises(Stopped):
        train_at(place(stop_at(50, tmp_path)), task(tmp_path, data, code="old"))
    train_at(place(), task(tmp_path, data, code="new"))
    output = Store.open(str(tmp_path))
    assert output.read_json("training_history.json")["code_sha256"] == ["old", "new"]
    # Code that only writes the results of a training that has ended is not among them.
    train_at(place(), task(tmp_path, data, code="newer"))
    for name in ("sae_epoch_2.pt", "thesis.doc", "report.html"):  # two of them of others
        output.write_bytes(name, b"1")
    about = {"code_sha256": "newer"}
    finish_run(output, SHORT, data, about, ["report.html"])
    assert is_complete(output, about)
    manifest = output.read_json(MANIFEST)
    assert manifest["run"] == {
        "code_sha256": "newer",
        "trained_by": ["old", "new"],
        "sinks": {"tokens": 0, "share": 0.0, "first": 0, "radius": None},
    }
    names = {"sae_final.pt", "sae_epoch_1.pt", "training_history.json", "report.html"}
    assert set(manifest["files"]) == names


def test_the_manifest_of_an_earlier_run_does_not_stand_while_another_one_trains(
    tmp_path: Path, data: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Store.open(str(tmp_path))
    write_manifest(output, {"seed": 1})

    def broken_off(*_: Any) -> None:
        assert not output.exists(MANIFEST)
        raise Stopped

    monkeypatch.setattr(sae_train, "relay_lines", nullcontext)
    monkeypatch.setattr(sae_train, "fit", broken_off)
    with pytest.raises(Stopped):
        train_sae(SHORT, data, JobOptions(output_dir=str(tmp_path)))
