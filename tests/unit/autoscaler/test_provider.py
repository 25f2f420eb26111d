"""What Ray asks of a node provider, over the simulated cloud."""

import contextlib
import os
import threading

import pytest
from click import ClickException
from ray.autoscaler.node_launch_exception import NodeLaunchException

from autoscaler import provider as provider_module
from autoscaler.errors import ConflictError
from autoscaler.nodes.cluster import CREATE_S, HOLD_S
from autoscaler.simulator import FailNext, Outage, RevokeKey, Stockout
from tests import provider_rig as rig
from tests.provider_rig import make, told

WORKER, HEAD = {"ray-node-type": "worker"}, {"ray-node-type": "head"}


def test_the_constructor_reads_and_sends_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LAMBDA_API_KEY", raising=False)
    made = provider_module.LambdaNodeProvider({"nonsense": True}, "demo")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ClickException, match="provider.nonsense"):
        made.non_terminated_nodes({})


def test_a_key_that_comes_later_heals_the_provider(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LAMBDA_API_KEY", raising=False)
    made = rig.LambdaNodeProvider(rig.head_section(rig.CLUSTER), "demo")
    with pytest.raises(ClickException, match="no API key"):
        made.non_terminated_nodes({})
    monkeypatch.setenv("LAMBDA_API_KEY", "sim")
    assert made.cluster.name == "demo"


def test_the_heads_autoscaler_says_once_that_it_has_read_a_list(sim, head, laptop):
    sim.add_fault(Outage("list", to_s=200.0))
    began_s = sim.clock.now()
    while sim.clock.now() - began_s < 300.0:
        with contextlib.suppress(ClickException):
            head.non_terminated_nodes({})
        assert bool(told(head, "watching")) == (sim.clock.now() - began_s > 200.0)
        sim.advance(10.0)
    laptop.non_terminated_nodes({})
    (said,) = told(head, "watching")
    assert said["pid"] == os.getpid() and told(laptop, "watching") == []


def test_workers_come_with_all_that_ray_says_of_them(sim, head):
    (node,) = make(head)
    instance = sim.cloud.instances[node]
    assert instance.spec.ssh_key_name == "sim-key" and instance.spec.region == rig.REGION
    assert instance.tags["ray-user-node-type"] == "gpu"
    assert "ray-node-status" not in instance.tags
    assert head.non_terminated_nodes(WORKER) == [node] and not head.is_running(node)
    sim.advance(400.0)
    head.non_terminated_nodes({})
    assert head.is_running(node)
    assert head.get_node_id(head.internal_ip(node), use_internal_ip=True) == node


def test_fewer_than_asked_raises_and_keeps_those_that_were_made(sim, head):
    sim.add_fault(Stockout(from_s=20.0))
    started_s = sim.clock.now()
    with pytest.raises(NodeLaunchException) as caught:
        make(head, 4)
    assert HOLD_S <= sim.clock.now() - started_s <= CREATE_S
    assert caught.value.category == "Capacity" and "next try" in caught.value.description
    assert len(head.non_terminated_nodes(WORKER)) == 2
    (said,) = told(head, "create-failed")
    assert (said["asked"], said["made"], said["node_type"]) == (4, 2, "gpu")


def test_a_failing_call_is_held_and_said_once(sim, head):
    sim.add_fault(Stockout(advertised=True))
    started_s = sim.clock.now()
    for _ in range(6):
        with pytest.raises(NodeLaunchException):
            make(head)
    assert sim.clock.now() - started_s >= 6 * HOLD_S
    # A new next try is news; the same one again is not.
    assert len(told(head, "create-failed")) <= 4
    launches = sim.invariants.report()["requests_by_endpoint"]["launch"]
    assert launches * 60 / (sim.clock.now() - started_s) <= 5


def test_a_call_is_bounded_when_every_launch_is_unclear(sim, head):
    sim.add_fault(FailNext(failure="timeout", n=50))
    started_s = sim.clock.now()
    with pytest.raises(NodeLaunchException) as caught:
        make(head, 5)
    assert caught.value.category == "AmbiguousLaunch"
    assert sim.clock.now() - started_s <= CREATE_S + 50.0


@pytest.mark.parametrize(
    ("failure", "category"),
    [
        (FailNext(failure=400, code="global/quota-exceeded"), "Quota"),
        (FailNext(failure=401, code="global/invalid-api-key"), "Auth"),
        (FailNext(failure=403, code="global/account-inactive"), "Account"),
    ],
)
def test_each_refusal_has_its_name(sim, head, failure, category):
    sim.add_fault(failure)
    with pytest.raises(NodeLaunchException) as caught:
        make(head)
    assert caught.value.category == category


def test_a_key_refused_in_the_middle_stops_launching_and_is_said_once(sim, head):
    make(head)
    sim.add_fault(RevokeKey())
    for _ in range(10):
        with pytest.raises(NodeLaunchException):
            make(head)
    # The types were read a moment before: one launch is still sent, and refused.
    assert sim.invariants.report()["requests_by_endpoint"]["launch"] <= 2
    assert len(told(head, "create-failed")) == 1


def test_the_budget_is_a_clear_no(sim, tmp_path):
    section = rig.head_section(rig.cluster_yaml(max_price_cents_per_hour=500))
    head = rig.provider_on(section, rig.session(sim, tmp_path))
    make(head)
    with pytest.raises(NodeLaunchException, match="max_price_cents_per_hour") as caught:
        make(head)
    assert caught.value.category == "Budget"
    assert len(told(head, "launch-denied")) == 1


def test_when_the_money_is_gone_everything_ends_before_the_cap(sim, tmp_path):
    config = rig.cluster_yaml(max_total_cents=500)
    laptop = rig.provider_on(rig.laptop_section(config), rig.session(sim, tmp_path / "laptop"))
    make(laptop, name="head")
    head = rig.provider_on(rig.head_section(config), rig.session(sim, tmp_path / "head"))
    make(head)
    for _ in range(2000):
        sim.advance(5.0)
        if not head.non_terminated_nodes({}):
            break
    assert sim.invariants.report()["alive"] == 0
    assert 440 <= sim.invariants.report()["spend_cents"] <= 500
    assert len(told(head, "budget-exhausted")) == 1


def test_the_head_outlives_a_worker_that_will_not_end(sim, tmp_path):
    config = rig.cluster_yaml(max_total_cents=500)
    laptop = rig.provider_on(rig.laptop_section(config), rig.session(sim, tmp_path / "laptop"))
    (head_id,) = make(laptop, name="head")
    head = rig.provider_on(rig.head_section(config), rig.session(sim, tmp_path / "head"))
    (worker,) = make(head)
    terminate, refused = head.cluster.session.client.terminate, []

    def refuse_the_worker_twice(ids):
        if worker in ids and len(refused) < 2:
            refused.append(list(ids))
            raise ConflictError("busy")
        return terminate(ids)

    head.cluster.session.client.terminate = refuse_the_worker_twice
    while sim.cloud.instances[head_id].alive:
        sim.advance(5.0)
        head.non_terminated_nodes({})
    assert len(refused) == 2 and not sim.cloud.instances[worker].alive
    assert sim.invariants.report()["spend_cents"] <= 500


def test_a_type_that_may_not_be_in_the_clusters_region_is_named(head):
    config = rig.node_config() | {"regions": ["us-east-1"]}
    with pytest.raises(NodeLaunchException, match="node_config.regions.*us-west-1.*us-east-1"):
        head.create_node(config, rig.ray_tags(), 1)


def test_many_threads_at_once(tmp_path):
    """Real threads over a clock that moves while they wait, slower than they ask for: a thread
    that the machine keeps waiting must not find its time gone."""
    sim = rig.account(enforce_rates=False)
    opened = rig.session(sim, tmp_path, sleep=lambda seconds: sim.advance(seconds / 8))
    head = rig.provider_on(rig.head_section(rig.CLUSTER), opened)
    errors: list[BaseException] = []

    def work():
        try:
            for node in make(head, 2):
                head.set_node_tags(node, {"ray-node-status": "setting-up"})
                head.non_terminated_nodes({})
                head.is_terminated(node)
                head.node_tags(node)
                head.internal_ip(node)
            head.terminate_node(node)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(head.non_terminated_nodes(WORKER)) == 3
    report = sim.invariants.report()
    assert (report["instances"], report["alive"], report["duplicate_nonces"]) == (6, 3, 0)
