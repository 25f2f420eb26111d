"""What nodes and trials cost, and that no start of a sweep forgets what was spent."""

import json
import pickle

import pytest

from autoscaler.lambda_cloud.prices import price_list
from data.errors import ConfigError, RefusedError, StorageError
from data.storage import Store
from ray_jobs.runtime import cluster as capacity
from ray_jobs.sweep.cost import SPEND, NodeMeter, Prices, Rate, dollars, known_prices, node_share

SMALL = {"CPU": 4.0}
LARGE = {"CPU": 200.0, "GPU": 8.0}


class Nodes:
    """A clock, and what the nodes that stand cost."""

    now_s = 0.0
    rate = Rate(3600.0)

    def meter(self, store: Store, **limits: object) -> NodeMeter:
        return NodeMeter(store, lambda: self.rate, clock=lambda: self.now_s, **limits)  # pyright: ignore


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.open(str(tmp_path))


def test_a_trial_costs_its_share_of_its_node():
    assert node_share({"CPU": 1.0, "GPU": 1.0}, LARGE) == 1 / 8
    assert node_share({"CPU": 3.0}, SMALL) == 3 / 4
    assert (dollars(164.5), dollars(None)) == ("$1.65", "-")


def test_nodes_that_come_and_go_are_paid_while_they_stand(nodes, store):
    meter = nodes.meter(store, max_cost_cents=50.0)
    nodes.now_s = 10.0
    meter.look()
    assert meter.cost_cents == 10.0 and not meter.spent
    nodes.rate, nodes.now_s = Rate(3 * 3600.0), 20.0
    meter.look()
    assert meter.cost_cents == 40.0
    meter.check()
    nodes.now_s = 24.0
    meter.look()
    assert meter.spent
    with pytest.raises(RefusedError, match="is spent before a trial could run"):
        meter.check()


@pytest.mark.parametrize("killed_s", [0.1, 9.0, 31.0, 39.5])
def test_a_driver_killed_at_any_time_has_not_spent_more_than_is_written(nodes, store, killed_s):
    """Killed: nothing is called any more. Its successor counts at most an interval too much."""
    with nodes.meter(store):
        pass  # its beginning is written
    meter = nodes.meter(store)
    meter.look()
    meter._save(ahead_s=10.0)
    for tenth in range(1, int(killed_s * 10) + 1):
        nodes.now_s = tenth / 10
        meter.look()
    found = nodes.meter(store).cost_cents
    assert found is not None and killed_s <= found <= killed_s + 10.0


def test_an_orderly_end_writes_what_was_spent_to_the_cent(nodes, store):
    with nodes.meter(store):
        assert Store.open(store.uri).read_json(SPEND)["cents"] == 10.0  # ahead
        nodes.now_s = 4.0
    assert nodes.meter(store).cost_cents == 4.0


def test_the_meter_runs_by_itself_while_a_harvest_waits(nodes, store, monkeypatch):
    monkeypatch.setattr("ray_jobs.sweep.cost.LOOK_INTERVAL_S", 0.001)
    with nodes.meter(store, max_cost_cents=5.0) as meter:
        nodes.now_s = 6.0
        while not meter.spent:
            pass
        with pytest.raises(RefusedError):
            meter.check()


def test_spend_that_can_not_be_written_breaks_off_the_work(nodes, store, tmp_path, monkeypatch):
    monkeypatch.setattr("ray_jobs.sweep.cost.LOOK_INTERVAL_S", 0.001)
    meter = nodes.meter(Store.open(str(tmp_path), retry_s=0.0))
    with pytest.raises(StorageError), meter:
        (tmp_path / SPEND).unlink()
        (tmp_path / SPEND).mkdir()
        nodes.now_s = 11.0
        while meter.problem is None:
            pass
        meter.check()


def test_ray_tune_may_pickle_a_meter_that_runs(nodes, store):
    with nodes.meter(store) as meter:
        assert pickle.loads(pickle.dumps(meter)).cost_cents == 0.0


def test_time_without_a_price_is_paid_once_there_is_one(nodes, store):
    nodes.rate = Rate(0.0, unpriced_nodes=2)
    with nodes.meter(store) as meter:
        nodes.now_s = 1800.0
        meter.look()
        assert meter.cost_cents is None and not meter.spent
    nodes.rate = Rate(200.0)
    with pytest.raises(ConfigError, match="max_cost_cents: needs the price of a node: --price"):
        nodes.meter(store, max_cost_cents=1.0).__enter__()
    assert nodes.meter(store, by_hand=100).cost_cents == 100.0


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    def make(types, rows):
        named = {name: {"node_config": {"instance_types": each}} for name, each in types.items()}
        config = tmp_path / capacity.HEAD_CONFIG
        config.write_text(json.dumps({"available_node_types": named}))
        monkeypatch.setenv("HOME", str(tmp_path))
        nodes = [
            {
                "Alive": True,
                "NodeManagerAddress": f"10.0.0.{number}",
                "Resources": resources,
                "Labels": {} if name is None else {"ray.io/node-group": name},
            }
            for number, (name, resources) in enumerate(rows)
        ]
        gone = {"Alive": False, "NodeManagerAddress": "10.0.0.99", "Resources": {}}
        monkeypatch.setattr("ray.nodes", lambda: [*nodes, gone])

    return make


TYPES = {"head": ["cpu_4x_general"], "a100": ["gpu_1x_a100_sxm4", "gpu_1x_h100_pcie"]}
GPU_TRIAL = {"CPU": 1.0, "GPU": 1.0}


def listed(name: str) -> int:
    return price_list().types[name].price_cents_per_hour or 0


def test_without_a_price_by_hand_a_node_costs_the_dearest_of_its_type(cluster):
    cluster(TYPES, [("head", {"CPU": 4.0}), ("a100", {"CPU": 30.0, "GPU": 1.0}), (None, LARGE)])
    prices = known_prices(None)
    head, gpu = listed("cpu_4x_general"), listed("gpu_1x_h100_pcie")
    assert gpu > listed("gpu_1x_a100_sxm4")
    assert prices.rate() == Rate(head + 2 * gpu)  # the last one tells no type
    assert prices.of_trial(GPU_TRIAL, "10.0.0.1") == gpu
    assert prices.of_trial(GPU_TRIAL, "10.0.0.2") == gpu / 8
    assert prices.of_trial(GPU_TRIAL, "10.0.0.9") is None
    assert "the dearest instance type" in prices.source


def test_a_price_by_hand_goes_before(cluster):
    cluster(TYPES, [("head", {"CPU": 4.0}), ("a100", {"CPU": 30.0, "GPU": 1.0})])
    assert known_prices(100).rate() == Rate(200)
    assert known_prices(100).of_trial({"CPU": 1.0}, "10.0.0.0") == 25.0


def test_where_a_price_is_not_known_none_is_made_up(cluster):
    cluster({**TYPES, "new": ["gpu_1x_unheard_of"]}, [("head", {"CPU": 4.0})])
    assert known_prices(None) == Prices()
    assert known_prices(None).rate() == Rate(0.0, unpriced_nodes=1)
    assert known_prices(None).of_trial({"CPU": 1.0}, "10.0.0.0") is None
