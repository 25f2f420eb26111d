"""Harvest on a real local Ray: whole, disturbed, begun again, and with bad input."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch
from safetensors.torch import load_file, save_file

from data.errors import ConfigError, DataError, JobError, NonFiniteError, StorageError
from data.storage import Store
from data.storage.probe import Probe
from ray_jobs.activations.harvest import HarvestProgress, harvest
from ray_jobs.activations.harvest_pool import MAX_DEATHS, HarvestPool
from ray_jobs.activations.host_model import HostModel
from ray_jobs.activations.manifest import MANIFEST_NAME, record_name, shard_name
from ray_jobs.activations.shards import ActivationSet
from tests.hosts import N_LAYERS, save_tiny_llama
from tests.ray.processes import children, kill_driver_after, wait_for

pytestmark = pytest.mark.ray

TEXTS = [f"person {i} born in street {i * i} writes to a friend " * (1 + i % 4) for i in range(60)]
SHARD_ROWS = 256


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_llama(tmp_path_factory.mktemp("host")))


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False)
    yield
    ray.shutdown()


def run(host: str, folder: Path, **changes: object) -> ActivationSet:
    options: dict = {"model": host, "layer": 2, "data_sha256": "a" * 64, "shard_rows": SHARD_ROWS}
    options |= {"store": Store.open(str(folder))} | changes
    return harvest(options.pop("documents", TEXTS), **options)


@pytest.fixture(scope="module")
def seen() -> list[HarvestProgress]:
    """The progress of `undisturbed`."""
    return []


@pytest.fixture(scope="module")
def undisturbed(
    local_ray: None,
    host: str,
    seen: list[HarvestProgress],
    tmp_path_factory: pytest.TempPathFactory,
) -> ActivationSet:
    return run(host, tmp_path_factory.mktemp("undisturbed"), on_progress=seen.append)


def folder_of(activations: ActivationSet) -> Path:
    return Path(activations.store.uri.removeprefix("file://"))


def contents(activations: ActivationSet) -> dict[str, bytes]:
    """Every file that counts; a killed writer may leave a `.partial` one, which does not."""
    folder = folder_of(activations)
    return {name: (folder / name).read_bytes() for name in activations.store.files()}


def harvester_pids() -> list[int]:
    """This process's harvesting actors that are alive."""
    pids = []
    for pid in children(os.getpid()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if command.startswith("ray::Harvester"):
            pids.append(pid)
    return pids


def test_harvest_equals_the_model(
    undisturbed: ActivationSet, host: str, seen: list[HarvestProgress]
) -> None:
    found = undisturbed
    expected = HostModel(host, 2).activations(TEXTS)
    for number, rows in found.documents():
        torch.testing.assert_close(
            rows.activations.float(), expected[number], atol=1e-6, rtol=2**-8
        )
    assert found.n_rows == sum(len(rows) for rows in expected)
    assert [progress.shards_done for progress in seen] == list(range(1, len(seen) + 1))
    last = seen[-1]
    assert last.shards_done == last.shards_total == len(found.manifest.shards) > 8
    assert last.rows_done == last.rows_total == found.n_rows
    assert last.left_s == 0 and last.rows_per_s > 0


def test_whole_set_is_reused(
    undisturbed: ActivationSet, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(HarvestPool, "run")
    before = contents(undisturbed)
    again = run(host, folder_of(undisturbed).parent)
    assert again == undisturbed and contents(again) == before


def test_killed_actors_are_replaced(undisturbed: ActivationSet, host: str, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(progress: HarvestProgress) -> None:
        if progress.shards_done in (1, 4):
            killed.extend(harvester_pids())
            for pid in harvester_pids():
                os.kill(pid, signal.SIGKILL)

    disturbed = run(host, tmp_path, on_progress=kill)
    assert len(set(killed)) >= 2
    assert contents(disturbed) == contents(undisturbed)


def test_shard_that_kills_every_actor_ends_the_harvest(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is handed a shard is killed before it can begin."""

    def deadly(self: HarvestPool, actor: object) -> None:
        for pid in harvester_pids():
            os.kill(pid, signal.SIGKILL)
        give(self, actor)

    give = HarvestPool._give
    monkeypatch.setattr(HarvestPool, "_give", deadly)
    monkeypatch.setattr(HarvestPool, "_limit", lambda *_: 1)
    with (
        HarvestPool(host, 2) as pool,
        pytest.raises(JobError, match=f"{MAX_DEATHS} processes died while computing shard"),
    ):
        run(host, tmp_path, pool=pool)


DRIVER = """
import sys, time, ray
from ray_jobs.activations.harvest import harvest
from data.storage import Store
from tests.ray.test_harvest import TEXTS, SHARD_ROWS
def stop(progress):
    if progress.shards_done == 3:
        print("three", flush=True)
        time.sleep(3600)
ray.init(address="local", num_cpus=1, include_dashboard=False)
harvest(TEXTS, data_sha256="a" * 64, model=sys.argv[1], layer=2, store=Store.open(sys.argv[2]),
        shard_rows=SHARD_ROWS, on_progress=stop)
"""


def test_killed_driver_goes_on_with_unfinished_shards(
    undisturbed: ActivationSet, host: str, tmp_path: Path
) -> None:
    kill_driver_after("three", [sys.executable, "-c", DRIVER, host, str(tmp_path)])
    folder = tmp_path / undisturbed.manifest.spec.folder
    finished = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*.json")}
    assert 3 <= len(finished) < len(undisturbed.manifest.shards)
    assert not (folder / MANIFEST_NAME).exists()

    seen: list[HarvestProgress] = []
    resumed = run(host, tmp_path, on_progress=seen.append)
    assert len(seen) == len(undisturbed.manifest.shards) - len(finished)
    for name, written_ns in finished.items():
        assert (folder / name).stat().st_mtime_ns == written_ns
    assert contents(resumed) == contents(undisturbed)


def test_only_the_missing_shard_is_made_anew(
    undisturbed: ActivationSet, host: str, tmp_path: Path
) -> None:
    folder = folder_of(run(host, tmp_path))
    (folder / shard_name(2)).unlink()
    seen: list[HarvestProgress] = []
    repaired = run(host, tmp_path, on_progress=seen.append)
    assert len(seen) == 1
    assert contents(repaired) == contents(undisturbed)


def test_pool_serves_one_harvest_after_the_other(
    undisturbed: ActivationSet, host: str, tmp_path: Path
) -> None:
    with HarvestPool(host, 2) as pool:
        assert contents(run(host, tmp_path / "a", pool=pool)) == contents(undisturbed)
        actors = harvester_pids()
        assert contents(run(host, tmp_path / "b", pool=pool)) == contents(undisturbed)
        assert set(actors) & set(harvester_pids())
        with pytest.raises(ValueError, match="the pool holds"):
            run(host, tmp_path, pool=pool, layer=1)
    wait_for(lambda: harvester_pids() == [])


def test_pool_outlives_a_harvest_that_breaks_off(
    undisturbed: ActivationSet, host: str, tmp_path: Path
) -> None:
    def fail(_: HarvestProgress) -> None:
        raise RuntimeError("no")

    with HarvestPool(host, 2) as pool:
        with pytest.raises(RuntimeError):
            run(host, tmp_path, pool=pool, on_progress=fail)
        assert contents(run(host, tmp_path, pool=pool)) == contents(undisturbed)


def test_a_node_that_does_not_share_the_storage_is_one_line(host: str, tmp_path: Path) -> None:
    elsewhere = Probe("probe", (Store.open(str(tmp_path)),))  # a file that is not there
    with HarvestPool(host, 2, probe=elsewhere) as pool:
        with pytest.raises(StorageError, match="is not shared: node") as caught:
            run(host, tmp_path, pool=pool)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_pool_needs_an_actor(host: str) -> None:
    with pytest.raises(ConfigError, match="^at_least: 0 is below 1"):
        HarvestPool(host, 2, at_least=0)


def test_another_layer_goes_elsewhere(undisturbed: ActivationSet, host: str) -> None:
    before = contents(undisturbed)
    other = run(host, folder_of(undisturbed).parent, layer=3, documents=TEXTS[:2])
    assert other.store.uri != undisturbed.store.uri
    assert contents(undisturbed) == before


def test_nan_in_the_model_is_one_line(host: str, tmp_path: Path) -> None:
    bad = save_tiny_llama(tmp_path / "bad")
    weights = load_file(bad / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(weights, bad / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NonFiniteError, match=r"^document \d+ gives a NaN") as error:
        run(str(bad), tmp_path / "out")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "out").rglob("*.safetensors")) == []
    wait_for(lambda: harvester_pids() == [])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"shard_rows": 0}, ConfigError, "^shard_rows: 0 is below 1"),
        ({"layer": N_LAYERS + 1}, ConfigError, "^layer: 6 is outside 1..5"),
        ({"dtype": "int8"}, ConfigError, "^dtype: "),
        ({"model": "./nowhere"}, DataError, "no such folder"),
        ({"documents": []}, DataError, "no activations to harvest: 0 documents"),
        ({"documents": ["", ""]}, DataError, "no activations to harvest: 2 documents"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    host: str, tmp_path: Path, changes: dict[str, object], error: type[JobError], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(host, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_every_shard_has_its_record(undisturbed: ActivationSet) -> None:
    names = set(undisturbed.store.files())
    indices = range(len(undisturbed.manifest.shards))
    assert names == {MANIFEST_NAME} | {
        name(index) for index in indices for name in (shard_name, record_name)
    }
