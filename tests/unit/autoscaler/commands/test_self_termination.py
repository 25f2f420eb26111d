"""`--stop` ends the bill: workers first, late ones included, then the head it runs on."""

import json

import pytest
from ray.autoscaler.node_launch_exception import NodeLaunchException

from autoscaler.commands import end_cluster as self_termination
from autoscaler.commands.end_cluster import end_own_cluster
from autoscaler.errors import AutoscalerError
from autoscaler.lambda_cloud import credentials
from autoscaler.lambda_cloud.rate_limit import Turn
from autoscaler.simulator import ListLag, Omit, Outage
from tests import provider_rig as rig


def head_provider(sim, tmp_path):
    """A process of the head; all of them share its state file."""
    return rig.provider_on(
        rig.head_section(rig.CLUSTER), rig.session(sim, tmp_path / "head", turn=Turn.HEAD)
    )


@pytest.fixture
def opened(sim, tmp_path):
    laptop = rig.provider_on(rig.laptop_section(rig.CLUSTER), rig.session(sim, tmp_path / "l"))
    laptop.create_node(rig.node_config("head"), rig.ray_tags("head"), 1)
    head = head_provider(sim, tmp_path)
    rig.make(head, 2)
    return head.cluster.session


def test_workers_go_first_and_the_head_last(sim, opened):
    end_own_cluster(opened, "demo")
    assert sim.invariants.report()["alive"] == 0
    ended = rig.events(opened, "terminated")
    kinds = [sim.cloud.instances[e["instance"]].tags["ray-node-type"] for e in ended]
    assert kinds == ["worker", "worker", "head"]


def test_a_worker_that_no_list_shows_yet_is_waited_for(sim, opened, tmp_path):
    sim.add_fault(ListLag(30.0))
    rig.make(head_provider(sim, tmp_path))
    end_own_cluster(opened, "demo")
    sim.advance(600.0)
    assert sim.invariants.report()["alive"] == 0


def test_the_autoscaler_beside_it_launches_no_more(sim, opened, tmp_path):
    """It sees its workers go, and still has a demand."""
    monitor = head_provider(sim, tmp_path)
    terminate = opened.terminator.terminate
    refused = []

    def terminate_and_demand(ids, why):
        ended = terminate(ids, why)
        with pytest.raises(NodeLaunchException, match="the cluster is ending") as caught:
            rig.make(monitor)
        refused.append(caught.value)
        return ended

    opened.terminator.terminate = terminate_and_demand
    end_own_cluster(opened, "demo")
    assert refused and sim.invariants.report()["alive"] == 0


def test_a_list_that_leaves_the_head_out_does_not_end_it_first(sim, opened):
    (head,) = (i for i in sim.cloud.instances.values() if i.tags["ray-node-type"] == "head")
    opened.reconciler("demo").reconcile(opened.client.list_instances())
    sim.add_fault(Omit(head.id, n=3))
    end_own_cluster(opened, "demo")
    ended = rig.events(opened, "terminated")
    assert ended[-1]["instance"] == head.id and len(ended) == 3


def test_an_api_that_is_away_is_waited_for(sim, opened):
    sim.add_fault(Outage(to_s=120.0))
    end_own_cluster(opened, "demo")
    assert sim.invariants.report()["alive"] == 0


def test_what_still_bills_is_an_error(sim, opened):
    sim.add_fault(Outage("terminate"))
    with pytest.raises(AutoscalerError):
        end_own_cluster(opened, "demo", time_limit_s=120.0)
    assert sim.invariants.report()["alive"] == 3


def test_the_command(sim, opened, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(self_termination, "open_session", lambda: opened)
    monkeypatch.setattr(credentials, "head_config", lambda: tmp_path / "config")
    assert self_termination.main() == 2
    assert "not a head's configuration" in capsys.readouterr().err
    (tmp_path / "config").write_text(json.dumps({"cluster_name": "demo"}))
    assert self_termination.main() == 0
    assert "Its workers have ended. This run has cost about $0." in capsys.readouterr().out
    assert sim.invariants.report()["alive"] == 0
