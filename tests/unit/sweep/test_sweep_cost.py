"""Where a trial fits, and what it costs."""

import json

import pytest

from ray_jobs import capacity
from ray_jobs.errors import RefusedError
from ray_jobs.sweep.cost import NodeMeter, cost_cents, dollars, node_share
from ray_jobs.sweep.roster import Budget

SMALL = {"CPU": 4.0, "memory": 1e9, "node:10.0.0.1": 1.0}
LARGE = {"CPU": 200.0, "GPU": 8.0}


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    def make(standing, startable):
        nodes = [{"Alive": True, "Resources": node} for node in standing]
        dead = {"Alive": False, "Resources": {"CPU": 999.0, "GPU": 99.0}}
        types = {
            f"type{index}": {"resources": node, "max_workers": count}
            for index, (node, count) in enumerate(startable)
        }
        config = tmp_path / capacity.HEAD_CONFIG
        config.write_text(json.dumps({"available_node_types": types}))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setattr("ray.nodes", lambda: [*nodes, dead])

    return make


def test_a_trial_that_fits_nowhere_is_refused_in_one_line(cluster):
    cluster([SMALL], [(LARGE, 0)])
    with pytest.raises(RefusedError) as caught:
        capacity.node_that_fits({"CPU": 1.0, "GPU": 1.0})
    assert str(caught.value).startswith("no node has room for 1 CPU, 1 GPU, and none")
    assert "the cluster has 4 CPU." in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_node_that_the_autoscaler_may_start_is_room(cluster):
    cluster([SMALL], [(LARGE, 2)])
    assert capacity.node_that_fits({"CPU": 1.0, "GPU": 1.0}) == LARGE
    assert capacity.room_now({"CPU": 1.0, "GPU": 1.0}) == 0


def test_two_small_nodes_are_no_large_one(cluster):
    cluster([SMALL, SMALL], [])
    with pytest.raises(RefusedError):
        capacity.node_that_fits({"CPU": 6.0})
    assert capacity.room_now({"CPU": 2.0}) == 4


def test_a_trial_costs_its_share_of_its_node(cluster):
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
