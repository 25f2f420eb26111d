"""`--stop` ends the bill: workers first, then the head it runs on."""

import json

import pytest

from autoscaler import self_termination
from autoscaler.errors import AutoscalerError
from autoscaler.self_termination import end_own_cluster
from autoscaler.simulator import Outage
from tests import provider_rig as rig


@pytest.fixture
def opened(sim, tmp_path):
    laptop = rig.provider_on(rig.laptop_section(rig.CLUSTER), rig.session(sim, tmp_path / "l"))
    laptop.create_node(rig.node_config("head"), rig.ray_tags("head"), 1)
    session = rig.session(sim, tmp_path / "head")
    rig.provider_on(rig.head_section(rig.CLUSTER), session).create_node(
        rig.node_config(), rig.ray_tags(), 2
    )
    return session


def test_workers_go_first_and_the_head_last(sim, opened):
    end_own_cluster(opened, "demo")
    assert sim.invariants.report()["alive"] == 0
    ended = rig.events(opened, "terminated")
    kinds = [sim.cloud.instances[e["instance"]].tags["ray-node-type"] for e in ended]
    assert kinds == ["worker", "worker", "head"]


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
    monkeypatch.setattr(self_termination, "head_config", lambda: tmp_path / "config")
    assert self_termination.main() == 2
    assert "not a head's configuration" in capsys.readouterr().err
    (tmp_path / "config").write_text(json.dumps({"cluster_name": "demo"}))
    assert self_termination.main() == 0
    assert sim.invariants.report()["alive"] == 0
