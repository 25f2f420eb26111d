"""The total cap is spent: what ends then, when, and for which reason."""

from dataclasses import replace

import pytest
from ray.autoscaler.node_launch_exception import NodeLaunchException

from autoscaler.simulator import FailNext
from tests import provider_rig as rig
from tests.provider_rig import make, told


def head_with(sim, folder, cap):
    section = rig.head_section(rig.cluster_yaml(max_total_cents=cap))
    return rig.provider_on(section, rig.session(sim, folder / "head"))


def run_for(sim, head, seconds):
    end_s = sim.clock.now() + seconds
    while sim.clock.now() < end_s:
        sim.advance(10.0)
        head.non_terminated_nodes({})


def lists_without_prices(provider, **type_fields):
    client = provider.cluster.session.client
    listed = client.list_instances

    def strip(instance):
        bare = replace(instance.instance_type, price_cents_per_hour=None, **type_fields)
        return replace(instance, instance_type=bare)

    client.list_instances = lambda: tuple(strip(i) for i in listed())


def test_a_price_that_lambda_leaves_out_is_the_known_ones(sim, head, laptop):
    make(head)
    lists_without_prices(laptop)
    sim.advance(30.0)
    laptop.non_terminated_nodes({})
    (charge,) = laptop.cluster.session.ledger.charges("demo")
    assert charge.price_cents_per_hour == 429


def test_a_price_that_nobody_knows_ends_no_cluster_at_once(sim, laptop, tmp_path):
    make(laptop, name="head")
    sim.advance(30.0)
    head = head_with(sim, tmp_path, 1000)
    lists_without_prices(head, name="gpu_64x_new")
    run_for(sim, head, 300.0)
    assert sim.invariants.report()["alive"] == 1
    with pytest.raises(NodeLaunchException, match="price of something that runs is unknown"):
        make(head)
    run_for(sim, head, 900.0)
    assert sim.invariants.report()["alive"] == 0
    (said,) = told(head, "budget-exhausted")
    dearest = head.cluster.session.catalog.dearest_cents_per_hour()
    assert f"a machine of unknown price counted at ${dearest / 100:.2f}/h" in str(said["reason"])


@pytest.mark.parametrize(("comes_after_s", "stays_s"), [(100.0, 140.0), (None, 100.0)])
def test_the_head_waits_for_a_launch_that_had_no_answer(
    sim, laptop, tmp_path, comes_after_s, stays_s
):
    """The cap is lowered by a new `ray up` while one is under way."""
    make(laptop, name="head")
    sim.advance(30.0)
    comes = {"committed": True, "commit_after_s": comes_after_s} if comes_after_s else {}
    sim.add_fault(FailNext(failure=504, **comes))
    with pytest.raises(NodeLaunchException, match="launch outcome unknown"):
        make(head_with(sim, tmp_path, None))
    began_s = sim.clock.now()
    head = head_with(sim, tmp_path, 1)
    while sim.invariants.report()["alive"] and sim.clock.now() - began_s < 600.0:
        sim.advance(5.0)
        head.non_terminated_nodes({})
    assert sim.clock.now() - began_s <= stays_s
    sim.invariants.expect_none()
    sim.advance(900.0)
    report = sim.invariants.report()
    assert report["leaked_instances"] == 0 and report["alive"] == 0
    assert report["instances"] == (2 if comes_after_s else 1)
