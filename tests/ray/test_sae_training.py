"""SAE training on a real local Ray: same result whatever the workers, kills and damage."""

import os
import pickle
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch

from data.errors import ConfigError, NonFiniteError, StorageError
from data.storage import Store
from data.storage.probe import Probe
from ray_jobs.activations.prepare import Prepared
from tests.activation_sets import save_set
from tests.ray.processes import kill_driver_after
from tests.ray.training import (
    CONFIG,
    N_ROWS,
    Lines,
    final_state,
    planted_rows,
    same_bits,
    train,
    without_times,
)

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    # Four places on whatever cores there are: workers of one thread each.
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def undisturbed(data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    train(folder, data, cpus_per_worker=1)
    return folder


def history_of(folder: Path) -> dict:
    return Store.open(str(folder)).read_json("training_history.json")


def checkpoints_of(folder: Path) -> list[Path]:
    """Committed checkpoint directories, oldest first."""
    return sorted(marker.parent for marker in folder.glob("checkpoints/*/*/COMMITTED.json"))


def test_it_learns_and_leaves_the_users_files(undisturbed: Path):
    history = history_of(undisturbed)
    assert history["checks"][-1]["fvu"] < 0.8 * history["checks"][0]["fvu"]
    assert history["stopped"] == {
        "early": False,
        "reason": "all 300 planned steps done",
        "step": 300,
        "planned_steps": 300,
        "steps_saved_share": 0.0,
    }
    names = {path.name for path in undisturbed.iterdir()}
    assert {"sae_final.pt", "sae_epoch_1.pt", "sae_epoch_3.pt", "training_history.json"} <= names
    assert len(checkpoints_of(undisturbed)) == CONFIG.keep_checkpoints


def test_two_workers_give_the_curve_of_one(data: Prepared, undisturbed: Path, tmp_path: Path):
    two = train(tmp_path, data, num_workers="2", cpus_per_worker=1)
    one = history_of(undisturbed)
    assert two["steps"] == one["steps"]
    torch.testing.assert_close(
        torch.tensor(two["losses"]), torch.tensor(one["losses"]), rtol=0, atol=1e-5
    )
    assert two["dead_share"] == pytest.approx(one["dead_share"], abs=1e-9)


def test_uneven_shares_of_three_workers_give_it_too(
    data: Prepared, undisturbed: Path, tmp_path: Path
):
    assert CONFIG.batch_size % 3
    three = train(tmp_path, data, num_workers="3", cpus_per_worker=1)
    torch.testing.assert_close(
        torch.tensor(three["losses"]),
        torch.tensor(history_of(undisturbed)["losses"]),
        rtol=0,
        atol=1e-5,
    )


def test_a_killed_worker_goes_on_bit_for_bit(
    data: Prepared, undisturbed: Path, tmp_path: Path, lines: Lines
):
    killed = []

    def kill_once(line: str) -> None:
        if "checkpoint of step" in line and not killed:
            killed.append(lines.workers()[0])
            os.kill(killed[0], signal.SIGKILL)

    lines.on_line = kill_once
    train(tmp_path, data, cpus_per_worker=1)
    shown = "\n".join(lines.lines)
    assert killed and "worker 0 ended" in shown and "resuming from checkpoint" in shown
    assert lines.workers()[0] != killed[0]
    assert same_bits(final_state(tmp_path), final_state(undisturbed))
    assert without_times(history_of(tmp_path)) == without_times(history_of(undisturbed))


DRIVER = """
import pickle, sys
from pathlib import Path
import ray
from tests.ray.training import Lines, train
Lines().on_line = lambda line: print(line, flush=True)
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
train(Path(sys.argv[1]), pickle.loads(Path(sys.argv[2]).read_bytes()), cpus_per_worker=1)
"""


def test_a_killed_job_that_is_started_again_ends_bit_for_bit_alike(
    data: Prepared, undisturbed: Path, tmp_path: Path, lines: Lines
):
    (tmp_path / "data").write_bytes(pickle.dumps(data))
    run = tmp_path / "run"
    command = [sys.executable, "-c", DRIVER, str(run), str(tmp_path / "data")]
    kill_driver_after("checkpoint of step", command)
    assert not (run / "sae_final.pt").exists()
    train(run, data, cpus_per_worker=1)
    assert any("resuming from checkpoint" in line for line in lines.lines)
    assert same_bits(final_state(run), final_state(undisturbed))
    assert without_times(history_of(run)) == without_times(history_of(undisturbed))


def test_elastic_workers_survive_the_loss_of_one(
    data: Prepared, undisturbed: Path, tmp_path: Path, lines: Lines
):
    killed = []

    def kill_once(line: str) -> None:
        if "checkpoint of step" in line and not killed:
            killed.append(lines.workers()[1])
            os.kill(killed[0], signal.SIGKILL)

    lines.on_line = kill_once
    history = train(tmp_path, data, num_workers="1-2", cpus_per_worker=2)
    assert killed
    torch.testing.assert_close(
        torch.tensor(history["losses"]),
        torch.tensor(history_of(undisturbed)["losses"]),
        rtol=0,
        atol=1e-5,
    )


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_newest_checkpoint_is_passed_over(
    data: Prepared, undisturbed: Path, tmp_path: Path, lines: Lines, damage: str
):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    newest = checkpoints_of(tmp_path)[-1]
    state = newest / "rank-00000.pt"
    if damage == "truncated":
        os.truncate(state, state.stat().st_size // 2)
    elif damage == "altered":
        content = bytearray(state.read_bytes())
        content[len(content) // 2] ^= 1
        state.write_bytes(content)
    else:
        for file in newest.iterdir():
            file.unlink()
        newest.rmdir()
    (tmp_path / "sae_final.pt").unlink()
    cadence = replace(CONFIG, checkpoint_every_steps=30)  # of no consequence for the weights
    train(tmp_path, data, cadence, cpus_per_worker=1)
    went_on = next(line for line in lines.lines if "resuming from checkpoint" in line)
    assert newest.name not in went_on
    if damage != "missing":
        assert any("is skipped" in line and newest.name in line for line in lines.lines)
    assert same_bits(final_state(tmp_path), final_state(undisturbed))


def test_a_loss_that_is_not_finite_stops_at_its_step_and_keeps_the_last_checkpoint(
    tmp_path: Path, data: Prepared, lines: Lines
):
    rows = planted_rows(N_ROWS, seed=0)
    healthy = data.activations["train"].manifest
    rows.activations[N_ROWS - 1, 3] = 3e38  # finite, but not its square
    bad = save_set(Store.open(str(tmp_path / "bad")), rows, CONFIG.shard_rows, N_ROWS)
    # Scaled as if it were healthy: the set's own scale would have hidden the outlier.
    manifest = replace(bad.manifest, mean=healthy.mean, scale=healthy.scale)
    sets = {**data.activations, "train": replace(bad, manifest=manifest)}
    one_epoch = replace(CONFIG, checkpoint_every_steps=1, epochs=1)
    with pytest.raises(NonFiniteError, match=r"not finite at step (\d+)") as caught:
        train(tmp_path / "run", Prepared(data.dataset, sets), one_epoch, cpus_per_worker=1)
    step = int(str(caught.value).split("at step ")[1].split(":")[0])
    kept = [int(path.name.split("-")[1]) for path in checkpoints_of(tmp_path / "run")]
    assert kept and max(kept) < step
    assert not (tmp_path / "run" / "sae_final.pt").exists()


def test_the_plateau_rule_stops_early_and_says_so(data: Prepared, tmp_path: Path):
    config = replace(
        CONFIG, enable_early_stopping=True, early_stopping_threshold=0.5, early_stopping_patience=1
    )
    history = train(tmp_path, data, config, cpus_per_worker=1)
    stopped = history["stopped"]
    assert stopped["early"] and stopped["reason"].startswith(
        "plateau: fvu did not improve by 50.0%"
    )
    assert stopped["steps_saved_share"] == 1 - stopped["step"] / 300 > 0
    assert history["summary"]["stopped_early"] and history["summary"]["steps"] == stopped["step"]


def test_a_finished_training_only_writes_its_results_again(
    data: Prepared, undisturbed: Path, tmp_path: Path, lines: Lines
):
    storage = str(undisturbed)
    train(tmp_path, data, cpus_per_worker=1, storage=storage)
    assert any("resuming from checkpoint" in line and "step 300" in line for line in lines.lines)
    assert same_bits(final_state(tmp_path), final_state(undisturbed))


def test_a_worker_that_does_not_share_the_places_is_one_line(
    data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    @contextmanager
    def elsewhere(*_: object) -> Iterator[Probe]:
        yield Probe("probe", (Store.open(str(tmp_path)),))  # a file that is not there

    monkeypatch.setattr("ray_jobs.runtime.fit.check_output_locations", elsewhere)
    with pytest.raises(StorageError, match="is not shared: node"):
        train(tmp_path, data, cpus_per_worker=1)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_larger_than_the_data_is_one_line(data: Prepared, tmp_path: Path):
    with pytest.raises(ConfigError, match="batch_size"):
        train(tmp_path, data, replace(CONFIG, batch_size=N_ROWS + 1), cpus_per_worker=1)
