"""How the demo ends: its cluster ended and its bill shown, whatever went wrong before."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from autoscaler.simulator import CloudConfig, SimulatedCloud
from data.errors import JobError
from ray_jobs.demo import __main__ as demo
from ray_jobs.demo.simulated_cluster import Cloud, SimulatedCluster


@pytest.fixture
def sim() -> Iterator[SimulatedCloud]:
    with SimulatedCloud(CloudConfig(enforce_rates=False)) as running:
        running.cloud.account.add_ssh_key("k", "ssh-ed25519 AAAA")
        yield running


def cluster_on(sim: SimulatedCloud, folder: Path, ray: str) -> SimulatedCluster:
    """Its `ray` is a line of shell."""
    cloud = Cloud(sim.api_url, sim.url, ("sh", "-c", ray), "sim")
    return SimulatedCluster(cloud, folder, folder / "log")


@pytest.mark.parametrize("first", [JobError("the job failed"), KeyboardInterrupt()])
def test_a_ray_down_that_fails_hides_neither_the_first_error_nor_the_bill(
    sim: SimulatedCloud,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    first: BaseException,
) -> None:
    cluster = cluster_on(sim, tmp_path, "echo no way; exit 1")
    with pytest.raises(type(first)) as caught, demo._ended(cluster):
        raise first
    assert caught.value is first
    shown = capsys.readouterr().out
    assert "ray down failed: no way" in shown and "0 instances running" in shown
    assert "$ ray down" in (tmp_path / "log").read_text()


def test_a_ray_down_that_fails_is_the_error_of_a_demo_that_went_well(
    sim: SimulatedCloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        pytest.raises(JobError, match="ray down failed: no way"),
        demo._ended(cluster_on(sim, tmp_path, "echo no way; exit 1")),
    ):
        pass
    assert "0 instances running" in capsys.readouterr().out


def test_machines_that_still_run_are_an_error(sim: SimulatedCloud, tmp_path: Path) -> None:
    body = {
        "region_name": "us-east-1",
        "instance_type_name": "cpu_4x_general",
        "ssh_key_names": ["k"],
    }
    headers = {"Authorization": "Bearer sim"}
    url = f"{sim.api_url}/instance-operations/launch"
    assert requests.post(url, json=body, headers=headers, timeout=10).status_code == 200
    with pytest.raises(JobError, match="1 machines are still running"):
        with demo._ended(cluster_on(sim, tmp_path, "true")):
            pass
