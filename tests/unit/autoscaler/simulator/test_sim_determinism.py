"""Determinism: one seed, one history; and thousands of instances in little time."""

from collections.abc import Callable
from typing import Any

import pytest

from autoscaler.simulator import CloudConfig, InstanceFault, Simulation, VirtualClock
from autoscaler.simulator.cloud.instances import LaunchSpec, ledger

Make = Callable[..., Any]

CHANCES = {
    "mean_open_s": 300.0,
    "mean_closed_s": 100.0,
    "refused_chance": 0.2,
    "omitted_chance": 0.1,
    "stuck_booting_chance": 0.1,
    "preempted_chance": 0.3,
    "list_lag_s": (0, 30),
}


def history(client: Any) -> list[Any]:
    """What a client sees of a busy hour."""
    seen: list[Any] = []
    for minute in range(60):
        for region in ("us-west-1", "us-east-1"):
            body = client.launch_body(region_name=region)
            reply = client.call("POST", "/instance-operations/launch", body)
            seen.append(reply.json())
        listed = client.listed()
        seen.append(listed)
        if minute % 5 == 4 and listed:
            client.call("POST", "/instance-operations/terminate", {"instance_ids": [*listed][:1]})
        client.sim.advance(60)
    seen.append(client.sim.invariants.report())
    return seen


def test_one_seed_gives_one_history(cloud_client: Make) -> None:
    one, same, other = (history(cloud_client(checked=False, seed=s, **CHANCES)) for s in (1, 1, 2))
    assert one == same
    assert one != other


def test_a_chance_does_not_move_the_other_draws() -> None:
    def boots(**chances: Any) -> list[float]:
        sim = Simulation(CloudConfig(seed=4, **chances))
        for _ in range(20):
            sim.cloud.commit(LaunchSpec("gpu_1x_a10", "us-west-1", "k"))
        sim.advance(1000)
        everyone = sim.cloud.instances.values()
        return [next(at for at, s in i.history if s == "active") for i in everyone]

    assert boots() == boots(dead_cuda_chance=1.0) == boots(preempted_chance=1.0)


def test_what_comes_due_happens_in_its_order_however_time_moves() -> None:
    ledgers = []
    for step in (1, 7, 4000):
        sim = Simulation(CloudConfig(seed=9, unhealthy_chance=0.5, fails_within_s=2000))
        for _ in range(30):
            sim.cloud.commit(LaunchSpec("gpu_1x_a10", "us-west-1", "k"))
        end = sim.clock.now() + 4000
        while sim.clock.now() < end:
            sim.advance(min(step, end - sim.clock.now()))
        ledgers.append(ledger(sim.cloud.instances.values(), sim.clock.now()))
    assert ledgers[0] == ledgers[1] == ledgers[2]


def test_thousands_of_instances_live_and_end(cloud_client: Make) -> None:
    boot_s = dict.fromkeys(("cpu", "single", "multi"), (100, 100))
    c = cloud_client(checked=False, boot_s=boot_s)
    spec = LaunchSpec("gpu_1x_a10", "us-west-1", "k")
    ids = [c.sim.cloud.commit(spec).id for _ in range(4000)]
    c.sim.add_fault(InstanceFault("preempt", instance_id=ids[0], after_s=50))
    c.sim.advance(160)
    assert c.sim.invariants.report()["alive"] == len(c.listed()) == 3999
    for at in range(1, 4000, 500):
        c.terminate(*ids[at : at + 500])
    c.sim.invariants.expect_none()
    c.sim.advance(10 * 3600)
    report = c.sim.invariants.report()
    assert (report["alive"], report["leaked_seconds"], report["instances"]) == (0, 0, 4000)
    assert report["spend_cents"] == 3999 * 129 / 60
    assert c.listed() == {}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"refused_chance": 1.5}, "refused_chance"),
        ({"terminating_s": (5, 2)}, "terminating_s"),
        ({"boot_s": {"cpu": (1, 2)}}, "boot_s"),
        ({"boot_s": dict.fromkeys(("cpu", "single", "multi"), (2, 1))}, "boot_s"),
        ({"page_size": 0}, "page_size"),
        ({"launch_burst": 0}, "launch_burst"),
        ({"api_keys": ()}, "api_keys"),
    ],
)
def test_a_config_that_cannot_be_names_its_field(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}"):
        CloudConfig(**fields)


def test_virtual_time_only_goes_on() -> None:
    clock = VirtualClock()
    with pytest.raises(ValueError, match="seconds"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="seconds"):
        clock.advance(float("nan"))
