"""The bill, to the minute."""

from collections.abc import Callable
from typing import Any

import pytest

from autoscaler.simulator import InstanceFault
from autoscaler.simulator.cloud.instances import billed_minutes, ledger

Make = Callable[..., Any]

BOOT = dict.fromkeys(("cpu", "single", "multi"), (100, 100))


def cents(client: Any) -> float:
    return client.sim.invariants.report()["spend_cents"]


@pytest.mark.parametrize(
    ("active_s", "minutes"), [(1, 1), (60, 1), (60.5, 2), (61, 2), (3600, 60), (3601, 61)]
)
def test_each_begun_minute_is_billed_whole(
    cloud_client: Make, active_s: float, minutes: int
) -> None:
    c = cloud_client(boot_s=BOOT)
    i = c.launch(instance_type_name="gpu_1x_h100_pcie")
    c.sim.advance(100 + active_s)
    c.terminate(i)
    c.sim.advance(10_000)
    assert cents(c) == minutes * 329 / 60


def test_booting_is_free_until_the_meter_starts(cloud_client: Make) -> None:
    c = cloud_client(boot_s=BOOT)
    i = c.launch()
    c.sim.advance(99)
    assert cents(c) == 0
    c.terminate(i)
    c.sim.advance(1000)
    assert cents(c) == 0


def test_the_meter_may_start_at_the_launch(cloud_client: Make) -> None:
    c = cloud_client(boot_s=BOOT, billing_from="launch")
    c.launch()
    assert cents(c) == 129 / 60
    c.sim.advance(90)
    assert cents(c) == 2 * 129 / 60


def test_the_meter_may_run_until_the_end_of_the_termination(cloud_client: Make) -> None:
    for until, minutes in (("request", 1), ("terminated", 2)):
        c = cloud_client(boot_s=BOOT, terminating_s=(50, 50), billing_until=until)
        i = c.launch()
        c.sim.advance(130)
        c.terminate(i)
        c.sim.advance(10_000)
        assert cents(c) == minutes * 129 / 60, until


def test_shutdown_goes_on_billing_and_preemption_does_not(cloud_client: Make) -> None:
    c = cloud_client(boot_s=BOOT)
    shut, taken = c.launch(), c.launch()
    c.sim.advance(100)
    c.sim.add_fault(InstanceFault("shutdown", instance_id=shut))
    c.sim.add_fault(InstanceFault("preempt", instance_id=taken))
    c.sim.advance(600)
    minutes = {i.id: billed_minutes(i, c.sim.clock.now()) for i in c.sim.cloud.instances.values()}
    assert minutes == {shut: 10, taken: 1}


def test_an_unhealthy_instance_bills(cloud_client: Make) -> None:
    c = cloud_client(boot_s=BOOT)
    i = c.launch()
    c.sim.advance(100)
    c.sim.add_fault(InstanceFault("unhealthy", instance_id=i))
    c.sim.advance(120)
    assert cents(c) == 2 * 129 / 60


def test_the_ledger_adds_up(cloud_client: Make) -> None:
    c = cloud_client(boot_s=BOOT)
    first = c.launch(name="a", tags=[{"key": "ray-node-type", "value": "head"}])
    c.launch(instance_type_name="gpu_8x_h100_sxm5")
    c.sim.advance(100 + 90)
    c.terminate(first)
    bill = ledger(c.sim.cloud.instances.values(), c.sim.clock.now())
    assert (bill["instances"], bill["alive"], bill["minutes"]) == (2, 1, 4)
    assert bill["cents"] == (2 * 129 + 2 * 3192) / 60
    row = bill["rows"][0]
    assert (row["name"], row["tags"], row["alive"]) == ("a", {"ray-node-type": "head"}, False)
    assert sum(r["cents"] for r in bill["rows"]) == pytest.approx(bill["cents"])


def test_burn_and_its_peak(cloud_client: Make) -> None:
    c = cloud_client()
    a = c.launch()
    b = c.launch(instance_type_name="gpu_8x_h100_sxm5")
    c.terminate(a)
    report = c.sim.invariants.report()
    assert report["burn_cents_per_hour"] == 3192
    assert report["peak_burn_cents_per_hour"] == 129 + 3192
    c.terminate(b)
    assert c.sim.invariants.report()["burn_cents_per_hour"] == 0
