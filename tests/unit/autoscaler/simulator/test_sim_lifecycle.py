"""The life of an instance in virtual time, from its launch until the API forgets it."""

from collections.abc import Callable
from typing import Any

import pytest

from autoscaler.simulator import CloudConfig, InstanceFault, Simulation
from autoscaler.simulator.cloud.instances import LaunchSpec

Make = Callable[..., Any]

GONE = (404, "global/object-does-not-exist")


@pytest.mark.parametrize(
    ("instance_type", "least_s", "most_s"),
    [("cpu_4x_general", 60, 120), ("gpu_1x_a10", 180, 330), ("gpu_8x_h100_sxm5", 600, 900)],
)
def test_boot_takes_as_long_as_its_size(
    cloud_client: Make, instance_type: str, least_s: float, most_s: float
) -> None:
    c = cloud_client()
    i = c.launch(instance_type_name=instance_type)
    booting = c.get(i)
    assert booting["status"] == "booting"
    assert "ip" not in booting
    assert booting["actions"]["restart"]["reason_code"] == "vm-has-not-launched"
    c.sim.advance(least_s - 1)
    early = c.get(i)
    assert early["status"] == "booting"
    assert "jupyter_token" not in early
    c.sim.advance(most_s - least_s + 1)
    active = c.get(i)
    assert active["status"] == "active"
    assert active["ip"] and active["private_ip"] and active["jupyter_token"]
    assert active["hostname"] == "ip-" + active["private_ip"].replace(".", "-")


def test_the_address_is_known_before_the_instance_is_active(cloud_client: Make) -> None:
    c = cloud_client(ip_at=(0.5, 0.5), boot_s=dict.fromkeys(("cpu", "single", "multi"), (100, 100)))
    i = c.launch()
    c.sim.advance(49)
    assert "ip" not in c.get(i)
    c.sim.advance(1)
    shown = c.get(i)
    assert (shown["status"], "ip" in shown) == ("booting", True)


def test_some_regions_have_no_private_address(cloud_client: Make) -> None:
    c = cloud_client()
    i = c.launch(region_name="us-south-1")
    c.sim.advance(400)
    assert c.get(i)["ip"]
    assert "private_ip" not in c.get(i)


def test_addresses_are_never_used_twice(cloud_client: Make) -> None:
    c = cloud_client()
    seen = set()
    for _ in range(5):
        i = c.launch()
        c.sim.advance(400)
        seen.add(c.get(i)["ip"])
        c.terminate(i)
        c.sim.advance(400)
    assert len(seen) == 5


def test_termination_runs_through_its_statuses(cloud_client: Make) -> None:
    c = cloud_client(terminating_s=(30, 30))
    i = c.launch()
    c.sim.advance(400)
    (ended,) = c.terminate(i)
    assert ended["status"] == "terminating"
    assert ended["actions"]["terminate"]["reason_code"] == "vm-is-terminating"
    assert c.listed() == {i: "terminating"}
    c.sim.advance(30)
    assert c.listed() == {}
    assert c.get(i)["status"] == "terminated"
    c.sim.advance(3600)
    assert c.error("GET", f"/instances/{i}") == GONE


def test_a_booting_instance_can_be_terminated(cloud_client: Make) -> None:
    c = cloud_client()
    i = c.launch()
    c.terminate(i)
    c.sim.advance(1000)
    assert [s for _, s in c.sim.cloud.instances[i].history] == [
        "booting",
        "terminating",
        "terminated",
    ]


def test_one_unknown_id_refuses_a_whole_termination(cloud_client: Make) -> None:
    c = cloud_client()
    i = c.launch()
    body = {"instance_ids": [i, "unknown"]}
    assert c.error("POST", "/instance-operations/terminate", body) == GONE
    assert c.get(i)["status"] == "booting"


def test_unknown_ids_may_be_skipped(cloud_client: Make) -> None:
    c = cloud_client(terminate_unknown="skip")
    i = c.launch()
    assert [x["id"] for x in c.terminate(i, "unknown")] == [i]
    body = {"instance_ids": ["unknown"]}
    assert c.error("POST", "/instance-operations/terminate", body) == GONE


def test_terminating_twice_is_fine_until_it_is_gone(cloud_client: Make) -> None:
    c = cloud_client(terminating_s=(30, 30))
    i = c.launch()
    c.terminate(i)
    ended_at = c.sim.cloud.instances[i].ended_at
    c.sim.advance(10)
    assert [x["status"] for x in c.terminate(i)] == ["terminating"]
    assert c.sim.cloud.instances[i].ended_at == ended_at
    c.sim.advance(30)
    body = {"instance_ids": [i]}
    assert c.error("POST", "/instance-operations/terminate", body) == GONE


def test_terminating_twice_may_be_an_unknown_error(cloud_client: Make) -> None:
    c = cloud_client(terminate_again="unknown-error")
    i = c.launch()
    c.terminate(i)
    body = {"instance_ids": [i]}
    answer = c.error("POST", "/instance-operations/terminate", body, documented=False)
    assert answer == (400, "global/unknown")


def test_terminated_instances_may_stay_in_the_list(cloud_client: Make) -> None:
    c = cloud_client(terminated_listed_s=100, terminating_s=(10, 10))
    i = c.launch()
    c.terminate(i)
    c.sim.advance(109)
    assert c.listed() == {i: "terminated"}
    c.sim.advance(1)
    assert c.listed() == {}


def test_restart_boots_again_and_only_what_runs(cloud_client: Make) -> None:
    c = cloud_client(restart_s=60)
    i = c.launch()
    body = {"instance_ids": [i]}
    assert c.error("POST", "/instance-operations/restart", body) == (409, "global/conflict")
    c.sim.advance(400)
    ip = c.get(i)["ip"]
    (restarted,) = c.data("POST", "/instance-operations/restart", body)["restarted_instances"]
    assert restarted["status"] == "booting"
    c.sim.advance(60)
    assert (c.get(i)["status"], c.get(i)["ip"]) == ("active", ip)
    unknown = {"instance_ids": ["unknown"]}
    assert c.error("POST", "/instance-operations/restart", unknown) == GONE


def test_an_instance_can_be_renamed(cloud_client: Make) -> None:
    c = cloud_client()
    i = c.launch(name="before")
    assert c.data("POST", f"/instances/{i}", {"name": "after"})["name"] == "after"
    assert c.get(i)["name"] == "after"
    assert c.data("POST", f"/instances/{i}", {})["name"] == "after"
    assert c.error("POST", "/instances/unknown", {"name": "x"}) == GONE


def test_chances_make_their_share_of_ill_instances() -> None:
    config = CloudConfig(
        seed=5,
        stuck_booting_chance=0.25,
        dead_cuda_chance=0.25,
        unhealthy_chance=0.25,
        preempted_chance=0.25,
    )
    sim = Simulation(config)
    sim.cloud.account.add_ssh_key("k", "ssh-ed25519 AAAA k")
    for _ in range(1000):
        sim.cloud.commit(LaunchSpec("gpu_1x_a10", "us-west-1", "k"))
    sim.advance(10_000)
    everyone = sim.cloud.instances.values()
    for fault in ("stuck_booting", "dead_cuda", "unhealthy", "preempt"):
        share = sum(fault in i.faults for i in everyone) / 1000
        # Preempted machines do not become unhealthy afterwards: up to an eighth fewer.
        assert 0.18 < share < 0.30, fault


def test_a_shut_down_instance_stays_and_can_be_restarted(cloud_client: Make) -> None:
    c = cloud_client()
    i = c.launch()
    c.sim.advance(400)
    c.sim.add_fault(InstanceFault("shutdown", instance_id=i))
    c.sim.advance(10)
    assert c.listed() == {i: "unhealthy"}
    c.data("POST", "/instance-operations/restart", {"instance_ids": [i]})
    c.sim.advance(60)
    assert c.get(i)["status"] == "active"
    assert c.sim.cloud.instances[i].faults == set()
