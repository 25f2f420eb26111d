"""What a trial and a sweep cost."""

import pytest

from ray_jobs.sweep.cost import NodeMeter, cost_cents, dollars, node_share
from ray_jobs.sweep.roster import Budget

SMALL = {"CPU": 4.0}
LARGE = {"CPU": 200.0, "GPU": 8.0}


def test_a_trial_costs_its_share_of_its_node():
    assert node_share({"CPU": 1.0, "GPU": 1.0}, LARGE) == 1 / 8
    assert node_share({"CPU": 3.0}, SMALL) == 3 / 4
    assert cost_cents(1800, 329) == pytest.approx(164.5)
    assert cost_cents(1800, None) is None
    assert (dollars(164.5), dollars(None)) == ("$1.65", "-")


def test_nodes_that_come_and_go_are_paid_while_they_stand():
    now_s, nodes = 0.0, 1
    meter = NodeMeter(3600, alive_nodes=lambda: nodes, clock=lambda: now_s)
    budget = Budget(meter, max_cost_cents=50.0)
    assert not budget.stop_all()
    now_s = 10.0
    assert not budget.stop_all() and meter.node_seconds == 10.0
    nodes, now_s = 3, 20.0
    assert not budget.stop_all() and meter.cost_cents == 40.0
    now_s = 20.5  # too soon for another look
    assert not budget.stop_all() and meter.cost_cents == 40.0
    now_s = 24.0
    assert budget.stop_all() and budget.spent


def test_without_a_price_or_a_limit_nothing_is_spent():
    meter = NodeMeter(None, node_seconds=1e9, alive_nodes=lambda: 1)
    assert not Budget(meter, 1.0).spent
    assert not Budget(NodeMeter(100, node_seconds=1e9), None).spent
