"""The list that Ray sees never flaps."""

import threading

import pytest

from autoscaler.errors import AuthError, UnavailableError
from autoscaler.instances.launcher import SETTLE_S
from autoscaler.nodes.listing import FRESH_S, LOOKS, OUTAGE_S, TOMBSTONE_S
from autoscaler.simulator import (
    FailNext,
    InstanceFault,
    ListLag,
    Omit,
    Outage,
    RevokeKey,
    StaleList,
)
from tests import provider_rig as rig


@pytest.fixture
def opened(sim, tmp_path):
    return rig.session(sim, tmp_path)


@pytest.fixture
def provider(opened):
    return rig.provider_on(rig.head_section(rig.CLUSTER), opened)


def make(provider, count=1):
    return list(provider.create_node(rig.node_config(), rig.ray_tags(), count))


def seen(provider):
    return set(provider.non_terminated_nodes({}))


def lists(sim):
    return sim.invariants.report()["requests_by_endpoint"].get("list", 0)


def test_one_list_serves_a_round_with_all_its_questions(sim, provider):
    nodes = make(provider, 3)
    sim.advance(400.0)
    before = lists(sim)
    for node in provider.non_terminated_nodes({}):
        assert provider.is_running(node) and not provider.is_terminated(node)
        assert provider.internal_ip(node) and provider.external_ip(node)
        assert provider.node_tags(node)["ray-user-node-type"] == "gpu"
    assert lists(sim) == before + 1
    sim.advance(FRESH_S + 1.0)
    assert seen(provider) == set(nodes)
    assert lists(sim) == before + 2


def test_threads_that_ask_at_once_share_one_request(sim, provider):
    make(provider)
    sim.advance(60.0)
    before = lists(sim)
    threads = [threading.Thread(target=seen, args=(provider,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lists(sim) == before + 1


def test_a_node_is_there_at_once_though_lists_lag(sim, provider):
    sim.add_fault(ListLag(60.0))
    (node,) = make(provider)
    assert provider.external_ip(node) is None and provider.internal_ip(node) is None
    for _ in range(15):
        assert seen(provider) == {node}
        sim.advance(5.0)
    sim.advance(400.0)
    assert seen(provider) == {node} and provider.is_running(node)


def test_another_process_knows_the_node_though_lists_lag(sim, opened, provider, tmp_path):
    sim.add_fault(ListLag(60.0))
    (node,) = make(provider)
    again = rig.provider_on(rig.head_section(rig.CLUSTER), rig.session(sim, tmp_path))
    assert seen(again) == {node}
    assert again.node_tags(node)["ray-node-type"] == "worker"


def test_a_list_that_omits_a_live_node_hides_nothing(sim, provider):
    nodes = set(make(provider, 2))
    sim.advance(400.0)
    assert seen(provider) == nodes
    sim.add_fault(Omit(n=4))
    for _ in range(6):
        sim.advance(5.0)
        assert seen(provider) == nodes
    assert not provider.cluster.session.events.tail(100)[-1]["event"] == "node-lost"


def test_many_omissions_cost_few_second_looks(sim, provider):
    nodes = set(make(provider, 5))
    sim.advance(400.0)
    seen(provider)
    before = sim.invariants.report()["requests"]
    sim.add_fault(Omit(n=2))
    for _ in range(2):
        sim.advance(10.0)
        assert seen(provider) == nodes
    assert sim.invariants.report()["requests"] - before == 2 + 3


@pytest.mark.parametrize("listed_s", [0.0, 60.0])
def test_a_node_that_is_gone_is_noticed(tmp_path, listed_s):
    sim = rig.account(preempted_listed_s=listed_s)
    provider = rig.provider_on(rig.head_section(rig.CLUSTER), rig.session(sim, tmp_path))
    (node,) = make(provider)
    sim.advance(400.0)
    assert seen(provider) == {node}
    sim.add_fault(InstanceFault("preempt", node))
    for _ in range(3):
        sim.advance(5.0)
        left = seen(provider)
    assert left == set() and provider.is_terminated(node)
    assert provider.node_tags(node)["ray-node-type"] == "worker", "threads of Ray still ask"
    opened = provider.cluster.session
    assert len(rig.events(opened, "node-lost")) == 1
    assert opened.ledger.running_ids("demo") == []


def test_an_ended_node_stays_hidden_behind_stale_lists(sim, provider):
    (node,) = make(provider)
    sim.advance(400.0)
    seen(provider)
    sim.add_fault(StaleList(120.0))
    provider.terminate_node(node)
    for _ in range(20):
        assert seen(provider) == set() and provider.is_terminated(node)
        sim.advance(5.0)


def test_a_termination_that_did_nothing_shows_after_a_while(sim, provider, monkeypatch):
    (node,) = make(provider)
    sim.advance(400.0)
    provider.cluster.nodes.drop([node])
    sim.advance(5.0)
    assert seen(provider) == set()
    sim.advance(TOMBSTONE_S)
    seen(provider)
    assert seen(provider) == {node}


def test_a_short_outage_loses_nothing_and_a_long_one_raises(sim, provider):
    nodes = set(make(provider, 2))
    sim.advance(400.0)
    seen(provider)
    sim.add_fault(Outage(to_s=OUTAGE_S + 60.0))
    started_s = sim.clock.now()
    while sim.clock.now() - started_s < OUTAGE_S - 20.0:
        sim.advance(5.0)
        assert seen(provider) == nodes
        assert not provider.safe_to_scale()
    sim.advance(40.0)
    with pytest.raises(Exception, match="list|instances") as caught:
        seen(provider)
    assert isinstance(caught.value.__cause__, UnavailableError)
    sim.advance(60.0)
    assert seen(provider) == nodes and provider.safe_to_scale()
    opened = provider.cluster.session
    assert len(rig.events(opened, "list-failed")) == 1
    assert len(rig.events(opened, "list-restored")) == 1


def test_an_api_that_never_answered_is_no_empty_cluster(sim, provider):
    sim.add_fault(Outage())
    with pytest.raises(Exception) as caught:
        seen(provider)
    assert isinstance(caught.value.__cause__, UnavailableError)


def test_a_new_process_whose_first_list_omits_machines_shows_no_smaller_cluster(
    sim, provider, tmp_path
):
    """Found by a random schedule: the machine that was not asked for was set up a second time."""
    nodes = set(make(provider, LOOKS + 2))
    sim.advance(400.0)
    seen(provider)
    again = rig.provider_on(rig.head_section(rig.CLUSTER), rig.session(sim, tmp_path))
    sim.add_fault(Omit(n=1))
    assert seen(again) == nodes
    third = rig.provider_on(rig.head_section(rig.CLUSTER), rig.session(sim, tmp_path))
    sim.add_fault(Omit(n=1))
    sim.add_fault(Outage("get", to_s=60.0))
    with pytest.raises(Exception, match=f"leaves out {len(nodes)} machines") as caught:
        seen(third)
    assert isinstance(caught.value.__cause__, UnavailableError)
    sim.advance(60.0)
    assert seen(third) == nodes


def test_a_laptop_that_has_not_looked_for_long_is_told_what_has_ended(sim, provider, tmp_path):
    def laptop():
        section = rig.laptop_section(rig.CLUSTER)
        return rig.provider_on(section, rig.session(sim, tmp_path / "laptop"))

    nodes = make(provider, LOOKS + 2)
    sim.advance(100.0)
    assert seen(laptop()) == set(nodes)
    provider.terminate_nodes(nodes)
    sim.advance(600.0)
    assert seen(laptop()) == set()


def test_a_refused_key_is_said_once(sim, provider):
    make(provider)
    sim.advance(400.0)
    seen(provider)
    sim.add_fault(RevokeKey())
    raised = 0
    for _ in range(60):
        sim.advance(5.0)
        try:
            seen(provider)
        except Exception as error:  # noqa: BLE001
            assert isinstance(error.__cause__, AuthError)
            raised += 1
    assert raised > 30
    (said,) = rig.events(provider.cluster.session, "list-failed")
    assert said["code"] == "global/invalid-api-key"


def test_late_arrivals_of_given_up_launches_are_never_shown(sim, provider):
    make(provider)
    sim.add_fault(FailNext(failure=504, committed=True, commit_after_s=200.0))
    with pytest.raises(Exception, match="launch outcome unknown"):
        make(provider)
    for _ in range(60):
        sim.advance(5.0)
        assert len(seen(provider)) == 1
    assert sim.invariants.report()["instances"] == 2
    assert sim.invariants.report()["alive"] == 1


def test_a_node_whose_tags_lambda_lost_is_known_to_who_launched_it(sim, provider):
    sim.add_fault(InstanceFault("untagged"))
    (node,) = make(provider)
    sim.advance(400.0)
    assert seen(provider) == {node}
    assert provider.node_tags(node)["ray-user-node-type"] == "gpu"


def test_a_node_without_tags_is_quarantined_elsewhere_and_ends_with_the_cluster(
    sim, provider, tmp_path
):
    sim.add_fault(InstanceFault("untagged"))
    (node,) = make(provider)
    sim.advance(400.0)
    laptop = rig.provider_on(rig.laptop_section(rig.CLUSTER), rig.session(sim, tmp_path / "laptop"))
    assert seen(laptop) == set()
    assert laptop.nodes_for_teardown({"ray-node-type": "worker"}) == [node]
    assert laptop.nodes_for_teardown({"ray-node-type": "head"}) == []
    (told,) = rig.events(laptop.cluster.session, "quarantined")
    assert told["instance"] == node


def test_tags_that_change_live_on_this_machine(sim, provider, tmp_path):
    (node,) = make(provider)
    provider.set_node_tags(node, {"ray-node-status": "setting-up", "ray-node-type": "head"})
    provider.set_node_tags(node, {"ray-runtime-config": "abc"})
    tags = provider.node_tags(node)
    assert (tags["ray-node-status"], tags["ray-runtime-config"]) == ("setting-up", "abc")
    assert tags["ray-node-type"] == "worker"
    assert provider.non_terminated_nodes({"ray-node-status": "setting-up"}) == [node]
    assert provider.non_terminated_nodes({"ray-node-status": "up-to-date"}) == []
    again = rig.provider_on(rig.head_section(rig.CLUSTER), rig.session(sim, tmp_path))
    assert again.non_terminated_nodes({"ray-runtime-config": "abc"}) == [node]


def test_other_clusters_are_not_seen(sim, provider, tmp_path):
    make(provider)
    other = rig.provider_on(
        rig.head_section(rig.CLUSTER), rig.session(sim, tmp_path / "other"), "other"
    )
    assert seen(other) == set()
    assert other.nodes_for_teardown({"ray-node-type": "worker"}) == []


def test_a_launch_whose_process_died_is_found_by_the_next(sim, provider, tmp_path):
    """The lists lag, and nobody is left who knows of the machine but the journal."""
    (node,) = make(provider)
    sim.advance(SETTLE_S + 10.0)
    sim.add_fault(Omit(n=2))
    again = rig.provider_on(rig.head_section(rig.CLUSTER), rig.session(sim, tmp_path))
    assert seen(again) == {node}


def test_an_api_that_has_just_failed_is_left_alone_for_a_moment(sim, provider):
    nodes = set(make(provider))
    sim.advance(400.0)
    seen(provider)
    sim.add_fault(Outage())
    sim.advance(5.0)
    seen(provider)
    before = sim.invariants.report()["requests"]
    for _ in range(10):
        assert seen(provider) == nodes and not provider.is_terminated(*nodes)
    assert sim.invariants.report()["requests"] == before
