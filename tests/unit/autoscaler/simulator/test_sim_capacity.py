"""Capacity: windows, random openings, stockouts, and what is advertised."""

from collections.abc import Callable
from typing import Any

from autoscaler.simulator import CloudConfig, Stockout, Window
from autoscaler.simulator.cloud.offers import Capacity

Make = Callable[..., Any]

SOLD_OUT = (400, "instance-operations/launch/insufficient-capacity")


def advertised(client: Any, instance_type: str = "gpu_1x_a10") -> list[str]:
    item = client.data("GET", "/instance-types")[instance_type]
    return [r["name"] for r in item["regions_with_capacity_available"]]


def test_the_price_list_has_every_kind_of_machine(cloud_client: Make) -> None:
    types = cloud_client().data("GET", "/instance-types")
    specs = {n: t["instance_type"]["specs"]["gpus"] for n, t in types.items()}
    assert specs["cpu_4x_general"] == 0
    assert specs["gpu_1x_a10"] == specs["gpu_1x_a100"] == specs["gpu_1x_h100_pcie"] == 1
    assert specs["gpu_8x_h100_sxm5"] == 8
    assert specs["gpu_1x_gh200"] == 1


def test_a_window_opens_and_closes(cloud_client: Make) -> None:
    c = cloud_client(windows=(Window("gpu_1x_a10", "us-west-1", 100, 184),))
    assert advertised(c) == [
        r["name"] for r in c.data("GET", "/regions") if r["name"] != "us-west-1"
    ]
    assert c.refused() == SOLD_OUT
    c.sim.advance(100)
    assert "us-west-1" in advertised(c)
    c.launch()
    c.sim.advance(83)
    c.launch()
    c.sim.advance(1)
    assert c.refused() == SOLD_OUT


def test_patterns_cover_many_offerings(cloud_client: Make) -> None:
    c = cloud_client(windows=(Window("gpu_*h100*", "*", 50, 60),))
    assert advertised(c, "gpu_8x_h100_sxm5") == []
    assert advertised(c, "gpu_1x_a100")
    c.sim.advance(50)
    assert advertised(c, "gpu_8x_h100_sxm5")


def test_a_stockout_begins_and_ends(cloud_client: Make) -> None:
    c = cloud_client()
    c.sim.advance(1000)
    c.sim.add_fault(Stockout("gpu_1x_a10", "us-west-1", from_s=10, to_s=20))
    c.launch()
    c.sim.advance(10)
    assert c.refused() == SOLD_OUT
    assert "us-west-1" not in advertised(c)
    c.launch(region_name="us-east-1")
    c.sim.advance(10)
    c.launch()


def test_capacity_can_be_advertised_and_refused(cloud_client: Make) -> None:
    c = cloud_client()
    fault = c.sim.add_fault(Stockout("gpu_1x_a10", advertised=True))
    assert "us-west-1" in advertised(c)
    assert c.refused() == SOLD_OUT
    hidden = c.sim.add_fault(Stockout("gpu_1x_a10", "us-west-1"))
    assert "us-west-1" not in advertised(c)
    assert c.sim.remove_fault(hidden) and c.sim.remove_fault(fault)
    c.launch()


def test_what_is_advertised_may_be_old(cloud_client: Make) -> None:
    window = Window("gpu_1x_a10", "us-west-1", 100, 184)
    c = cloud_client(windows=(window,), advertised_lag_s=10)
    c.sim.advance(105)
    assert "us-west-1" not in advertised(c)
    c.launch()
    c.sim.advance(80)
    assert "us-west-1" in advertised(c)
    assert c.refused() == SOLD_OUT


def test_a_share_of_launches_is_refused_in_spite_of_capacity(cloud_client: Make) -> None:
    c = cloud_client(refused_chance=0.27)
    body = c.launch_body()
    statuses = [c.call("POST", "/instance-operations/launch", body).status_code for _ in range(500)]
    assert 0.2 < statuses.count(400) / 500 < 0.34


def test_random_openings_have_their_mean_and_do_not_depend_on_the_asker() -> None:
    config = CloudConfig(seed=3, mean_open_s=84, mean_closed_s=300)
    day = [float(t) for t in range(0, 200_000, 4)]
    forwards, backwards = Capacity(config, 0.0), Capacity(config, 0.0)
    a = [forwards.open("gpu_1x_h100_pcie", "us-west-1", t) for t in day]
    assert backwards.open("gpu_1x_a10", "us-west-1", 5e5) in (True, False)
    b = [backwards.open("gpu_1x_h100_pcie", "us-west-1", t) for t in reversed(day)]
    assert a == b[::-1]
    assert abs(sum(a) / len(a) - 84 / 384) < 0.03
    openings = sum(now and not before for before, now in zip(a, a[1:], strict=False))
    assert abs(openings - 200_000 / 384) < 0.15 * 200_000 / 384
