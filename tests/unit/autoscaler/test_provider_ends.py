"""The end of nodes: asked for, found necessary, or with the whole cluster."""

import pytest

from autoscaler.bootstrap.files import cluster_files
from autoscaler.domain import Offering
from autoscaler.events import utc
from autoscaler.instances.unavailable_offerings import Reason
from autoscaler.simulator import InstanceFault, Outage
from tests import provider_rig as rig
from tests.provider_rig import make, told

WORKER, HEAD = {"ray-node-type": "worker"}, {"ray-node-type": "head"}


def test_terminating_is_idempotent_and_never_raises(sim, head):
    nodes = make(head, 2)
    head.terminate_nodes(nodes)
    head.terminate_nodes([*nodes, "0" * 32])
    head.terminate_node(nodes[0])
    assert head.non_terminated_nodes({}) == [] and sim.invariants.report()["alive"] == 0


def test_a_termination_that_fails_is_sent_again_with_the_next_list(sim, head):
    (node,) = make(head)
    sim.add_fault(Outage("terminate", to_s=60.0))
    head.terminate_node(node)
    assert sim.invariants.report()["alive"] == 1
    sim.advance(80.0)
    head.non_terminated_nodes({})
    assert sim.invariants.report()["alive"] == 0
    assert head.non_terminated_nodes({}) == []


def test_unhealthy_nodes_end_and_their_offering_is_unavailable(sim, head):
    (node,) = make(head)
    head.report_unhealthy(node, "0 of 1 GPUs are there")
    head.report_unhealthy(node, "again")
    assert sim.invariants.report()["alive"] == 0
    (marked,) = head.cluster.session.unavailable_offerings.all()
    assert (marked.offering, marked.reason) == (Offering(rig.H100, rig.REGION), Reason.SUSPECT)
    (said,) = told(head, "node-unhealthy")
    assert said["reason"] == "0 of 1 GPUs are there" and said["type"] == rig.H100
    assert said["next_try"] == utc(marked.next_try_s)
    (other,) = make(head)
    assert sim.cloud.instances[other].type.name == rig.A100


def test_a_machine_is_unhealthy_once_however_long_its_end_fails(sim, head):
    (node,) = make(head)
    sim.add_fault(Outage("terminate", to_s=60.0))
    for _ in range(16):
        head.report_unhealthy(node, "no CUDA")
        sim.advance(5.0)
        head.non_terminated_nodes({})
    assert sim.invariants.report()["alive"] == 0
    (marked,) = head.cluster.session.unavailable_offerings.all()
    assert marked.failures == 1 and len(told(head, "node-unhealthy")) == 1


def test_a_setup_that_fails_three_times_makes_a_worker_unhealthy(sim, head):
    (node,) = make(head)
    sim.advance(400.0)
    head.non_terminated_nodes({})
    for _ in range(2):
        head.set_node_tags(node, {"ray-node-status": "update-failed"})
        assert head.non_terminated_nodes({}) == [node]
    head.set_node_tags(node, {"ray-node-status": "update-failed"})
    assert head.non_terminated_nodes({}) == []
    assert [said["tries"] for said in told(head, "setup-failed")] == [1, 2, 3]
    assert told(head, "node-unhealthy")[0]["reason"] == "its setup failed"


def test_a_setup_that_works_at_last_forgives(sim, head):
    (node,) = make(head)
    sim.advance(400.0)
    head.non_terminated_nodes({})
    for status in ("update-failed", "update-failed", "up-to-date", "update-failed"):
        head.set_node_tags(node, {"ray-node-status": status})
    assert head.non_terminated_nodes({}) == [node]


def test_a_head_whose_setup_fails_stays_to_be_looked_at(sim, laptop):
    (node,) = make(laptop, name="head")
    sim.advance(400.0)
    laptop.non_terminated_nodes({})
    for _ in range(4):
        laptop.set_node_tags(node, {"ray-node-status": "update-failed"})
    assert laptop.non_terminated_nodes(HEAD) == [node]


def test_a_head_that_lambda_shows_booting_behind_its_ssh_stays_too(sim, laptop):
    (node,) = make(laptop, name="head")
    laptop.non_terminated_nodes({})
    sim.advance(400.0)  # nobody has asked since
    laptop.set_node_tags(node, {"ray-node-status": "update-failed"})
    assert laptop.non_terminated_nodes(HEAD) == [node]


def test_a_head_that_never_came_up_is_not_left_behind(sim, laptop):
    sim.add_fault(InstanceFault("stuck_booting"))
    (node,) = make(laptop, name="head")
    sim.advance(900.0)
    laptop.set_node_tags(node, {"ray-node-status": "update-failed"})
    assert sim.invariants.report()["alive"] == 0


@pytest.mark.parametrize(
    ("fault", "within_s", "reason"),
    [("stuck_booting", 1260.0, "still booting 20 minutes"), ("untagged", 400.0, "tags")],
)
def test_workers_that_never_become_nodes_end(tmp_path, fault, within_s, reason):
    sim = rig.account()
    made = rig.provider_on(rig.head_section(rig.CLUSTER), rig.session(sim, tmp_path / "lost"))
    sim.add_fault(InstanceFault(fault))
    (node,) = make(made)
    head = rig.provider_on(rig.head_section(rig.CLUSTER), rig.session(sim, tmp_path / "head"))
    started_s = sim.clock.now()
    while sim.clock.now() - started_s < within_s:
        sim.advance(5.0)
        head.non_terminated_nodes({})
    assert not sim.cloud.instances[node].alive
    (said,) = told(head, "node-unhealthy")
    assert reason in str(said["reason"])


def run_for(sim, head, seconds):
    end_s = sim.clock.now() + seconds
    while sim.clock.now() < end_s:
        sim.advance(5.0)
        head.non_terminated_nodes({})


def test_a_worker_that_has_run_may_restart(sim, head):
    (node,) = make(head)
    run_for(sim, head, 3600.0)
    head.set_node_tags(node, {"ray-node-status": "up-to-date"})
    sim.cloud.restart([node])
    run_for(sim, head, 300.0)
    assert sim.cloud.instances[node].alive and told(head, "node-unhealthy") == []


def test_a_worker_that_falls_ill_before_it_is_a_node_ends(sim, head):
    (node,) = make(head)
    sim.add_fault(InstanceFault("unhealthy", node, after_s=30.0))
    run_for(sim, head, 1260.0)
    assert not sim.cloud.instances[node].alive
    assert "still unhealthy 20 minutes" in str(told(head, "node-unhealthy")[0]["reason"])


def test_a_region_without_private_addresses_is_left(tmp_path):
    sim = rig.account(regions_without_private_ip=(rig.REGION,))
    head = rig.provider_on(rig.head_section(rig.CLUSTER), rig.session(sim, tmp_path))
    (node,) = make(head)
    for _ in range(120):
        sim.advance(5.0)
        head.non_terminated_nodes({})
    assert not sim.cloud.instances[node].alive
    assert "private address" in str(told(head, "node-unhealthy")[0]["reason"])


def test_the_laptop_judges_no_worker(sim, head, laptop):
    sim.add_fault(InstanceFault("stuck_booting"))
    make(head)
    for _ in range(300):
        sim.advance(5.0)
        laptop.non_terminated_nodes({})
    assert sim.invariants.report()["alive"] == 1


def test_ray_down_sees_all_that_bills(sim, head, laptop):
    (unhealthy,) = make(head)
    sim.add_fault(InstanceFault("untagged"))
    (untagged,) = make(head)
    sim.advance(400.0)
    sim.add_fault(InstanceFault("unhealthy", unhealthy))
    sim.advance(1.0)
    assert set(laptop.nodes_for_teardown(WORKER)) == {unhealthy, untagged}


def test_cleanup_verifies_zero_and_removes_the_clusters_files(
    sim, head, laptop, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", str(tmp_path))
    files = cluster_files("demo")
    files.write_credentials(laptop.cluster.session.key, "https://x")
    cache = tmp_path / "ray-config-abc"
    cache.touch()
    laptop.provider_config["_config_cache_path"] = str(cache)
    make(head, 2)
    laptop.cleanup_cluster_resources()
    assert sim.invariants.report()["alive"] == 0
    assert not files.folder.exists() and not cache.exists()
    assert "0 instances of demo are running" in capsys.readouterr().out


def test_cleanup_that_cannot_verify_ends_the_command(sim, head, laptop, capsys):
    """Ray would take an exception for a detail, print advice for Azure, and exit with 0."""
    (node,) = make(head)
    sim.add_fault(Outage("terminate", failure=500))
    with pytest.raises(SystemExit) as caught:
        laptop.cleanup_cluster_resources()
    assert caught.value.code == 1
    assert node in capsys.readouterr().err
