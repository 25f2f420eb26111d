"""Random schedules through Ray's real autoscalers: no leaks, doubles, rush or overspending."""

import logging

import pytest
from hypothesis import HealthCheck, given, settings

from autoscaler.simulator import InstanceFault
from tests import provider_rig as rig
from tests.reconciling.schedules import BOOTS, Schedule, check, live_through, schedules
from tests.reconciling.v1 import V1Monitor
from tests.reconciling.v2 import V2Monitor
from tests.reconciling.world import World

pytestmark = pytest.mark.timeout(1800)

SETTINGS = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(autouse=True)
def quiet():
    """What Ray logs of hundreds of clusters."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@settings(SETTINGS, max_examples=200)
@given(schedule=schedules())
def test_whatever_happens_under_v2_everything_ends_and_nothing_doubles(schedule):
    check(live_through(schedule, V2Monitor), schedule)


@settings(SETTINGS, max_examples=40)
@given(schedule=schedules())
def test_whatever_happens_under_v1_everything_ends_and_nothing_doubles(schedule):
    check(live_through(schedule, V1Monitor), schedule)


def test_a_total_cap_holds_over_several_heads():
    """Each is brought up after the one before has spent the money, or was lost."""
    config = rig.cluster_yaml(max_price_cents_per_hour=500, max_total_cents=700)
    simulation = rig.account(boot_s=BOOTS)
    world = World(V2Monitor, simulation=simulation, config=config, tick_s=25.0)
    with world.living():
        for lost in (True, False, False, False):
            world.ray_up()
            world.head.ray.demand = 1
            world.run_for(1800.0)
            if lost:
                for instance in simulation.cloud.instances.values():
                    simulation.add_fault(InstanceFault("preempt", instance.id))
            world.run_for(60.0 if lost else 5400.0)
        assert len(world.all_heads) == 2 and world.report()["alive"] == 0
        world.ray_down()
    check(world, Schedule(0, (), 500, 700))
    assert world.report()["spend_cents"] > 500
