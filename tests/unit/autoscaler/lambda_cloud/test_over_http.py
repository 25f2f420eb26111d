"""The provider's lower half over a real socket, against the simulated cloud's server."""

import pytest

from autoscaler.errors import AuthError
from autoscaler.simulator import CloudConfig, FailNext, RevokeKey, SimulatedCloud
from tests.unit.autoscaler.lambda_rig import Host


@pytest.fixture
def sim():
    with SimulatedCloud(CloudConfig(page_size=2)) as sim:
        sim.cloud.account.add_ssh_key("sim-key", "ssh-ed25519 AAAA test")
        yield sim


def test_from_launch_to_verified_zero(sim, tmp_path):
    host = Host(sim, tmp_path, url=sim.api_url)
    sim.add_fault(FailNext(failure="reset", committed=True))
    sim.add_fault(FailNext("list", "reset", n=2))
    ids = {host.acquire().instance_id for _ in range(3)}
    assert {instance.id for instance in host.client.list_instances()} == ids
    sim.advance(600.0)
    assert all(i.status == "active" and i.private_ip for i in host.client.list_instances())
    done = host.teardown.terminate_all("demo")
    report = sim.invariants.report()
    assert set(done.ended) == ids
    assert (report["alive"], report["duplicate_nonces"], report["requests_over_rate"]) == (0, 0, 0)
    assert report["requests_by_endpoint"]["launch"] == 3


def test_all_that_can_be_listed_is_read(sim, tmp_path):
    client = Host(sim, tmp_path, url=sim.api_url).client
    assert {offer.instance_type.name for offer in client.list_instance_types()} >= {"gpu_1x_a10"}
    assert client.list_regions() and client.list_images()
    assert [key.name for key in client.list_ssh_keys()] == ["sim-key"]
    assert client.list_file_systems() == ()


def test_a_revoked_key_is_one_clear_line(sim, tmp_path):
    sim.add_fault(RevokeKey())
    with pytest.raises(AuthError, match="global/invalid-api-key") as caught:
        Host(sim, tmp_path, url=sim.api_url).acquire()
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
