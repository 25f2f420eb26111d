"""A state file that cannot be used: everything can still be ended, and nothing is launched."""

import pytest
from click import ClickException
from ray.autoscaler.node_launch_exception import NodeLaunchException

from autoscaler.commands import status as status_command
from autoscaler.commands.end_cluster import end_own_cluster
from autoscaler.commands.status import render
from autoscaler.errors import StateError
from autoscaler.instances.launcher import SETTLE_S
from autoscaler.instances.reconcile import IN_FLIGHT_S
from autoscaler.simulator import FailNext
from autoscaler.state import State
from tests import provider_rig as rig
from tests.provider_rig import make, told

GARBAGE = b"this is not a database, " * 400


def damage(home):
    (home / "state.db").write_bytes(GARBAGE)


@pytest.fixture
def full_disk(monkeypatch):
    """Of every machine: what is there can be read, and nothing be written."""

    def fill():
        def transaction(self):
            raise StateError(f"{self.path}: the state file cannot be used (disk is full)")

        monkeypatch.setattr(State, "transaction", transaction)

    return fill


def alive(sim):
    return sim.invariants.report()["alive"]


def test_ray_down_with_a_damaged_file(sim, head, laptop, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    make(laptop, name="head")
    make(head, 2)
    sim.advance(100.0)
    rush_before = sim.invariants.report()["requests_over_rate"]
    damage(tmp_path / "laptop")
    again = rig.provider_on(laptop.provider_config, rig.session(sim, tmp_path / "laptop"))
    started_s = sim.clock.now()
    nodes = again.nodes_for_teardown({})
    assert len(nodes) == 3
    again.terminate_nodes(nodes)
    assert alive(sim) == 0
    again.cleanup_cluster_resources()
    said = capsys.readouterr().out
    assert "0 instances of demo are running" in said and "cost an unknown sum" in said
    assert sim.clock.now() - started_s > IN_FLIGHT_S + SETTLE_S, "a launch may be under way"
    assert sim.invariants.report()["requests_over_rate"] == rush_before


def test_a_file_damaged_in_the_middle_of_ray_down(sim, laptop, tmp_path, monkeypatch):
    make(laptop, name="head")
    sim.advance(100.0)
    client = laptop.cluster.session.client
    looks, list_instances = [], client.list_instances

    def left_out_from_the_second_list_on():
        looks.append(len(looks))
        if len(looks) == 2:
            damage(tmp_path / "laptop")
        return list_instances() if len(looks) == 1 else ()

    monkeypatch.setattr(client, "list_instances", left_out_from_the_second_list_on)
    sim.add_fault(FailNext(endpoint="terminate", failure=500, n=4))
    laptop.cluster.session.teardown.terminate_all("demo")
    assert alive(sim) == 0


@pytest.mark.parametrize("what", ["damaged", "full"])
def test_nothing_is_launched(sim, tmp_path, full_disk, what):
    folder = tmp_path / "new"
    laptop = rig.provider_on(rig.laptop_section(rig.CLUSTER), rig.session(sim, folder))
    folder.mkdir()
    damage(folder) if what == "damaged" else full_disk()
    with pytest.raises(ClickException, match="the state file cannot be used") as caught:
        make(laptop, name="head")
    assert "\n" not in str(caught.value) and sim.invariants.report()["instances"] == 0


@pytest.mark.parametrize("what", ["damaged", "full"])
def test_a_head_goes_on_seeing_and_ending_its_nodes(sim, head, tmp_path, full_disk, what):
    first, second = make(head, 2)
    sim.advance(400.0)
    head.non_terminated_nodes({})
    head.set_node_tags(first, {"ray-node-status": "up-to-date"})
    damage(tmp_path / "head") if what == "damaged" else full_disk()
    for _ in range(40):
        sim.advance(5.0)
        assert set(head.non_terminated_nodes({})) == {first, second}
    assert head.node_tags(first)["ray-node-status"] == "up-to-date"
    with pytest.raises(NodeLaunchException, match="the state file cannot be used"):
        make(head)
    head.report_unhealthy(second, "no CUDA")
    head.terminate_node(first)
    assert alive(sim) == 0 and head.non_terminated_nodes({}) == []
    assert len(told(head, "state-failed")) == (what == "damaged")


@pytest.mark.parametrize("what", ["damaged", "full"])
def test_the_total_cap_holds(sim, tmp_path, full_disk, what):
    section = rig.head_section(rig.cluster_yaml(max_total_cents=500))
    head = rig.provider_on(section, rig.session(sim, tmp_path))
    make(head)
    sim.advance(60.0)
    head.non_terminated_nodes({})
    damage(tmp_path) if what == "damaged" else full_disk()
    for restart in (False, True):
        if restart and what == "damaged":
            head = rig.provider_on(section, rig.session(sim, tmp_path))
        for _ in range(150):
            sim.advance(20.0)
            head.non_terminated_nodes({})
    assert alive(sim) == 0 and 450 < sim.invariants.report()["spend_cents"] <= 500


def test_late_arrivals_end_though_the_disk_is_full(sim, head, full_disk):
    sim.add_fault(FailNext(failure=504, committed=True, commit_after_s=200.0))
    with pytest.raises(NodeLaunchException):
        make(head)
    full_disk()
    sim.advance(200.0)
    head.non_terminated_nodes({})
    assert sim.invariants.report()["instances"] == 1 and alive(sim) == 0


@pytest.mark.parametrize("what", ["damaged", "full"])
def test_a_cluster_stops_itself(sim, head, laptop, tmp_path, full_disk, what):
    make(laptop, name="head")
    make(head, 2)
    sim.advance(100.0)
    damage(tmp_path / "head") if what == "damaged" else full_disk()
    end_own_cluster(rig.session(sim, tmp_path / "head"), "demo")
    assert alive(sim) == 0


def test_the_status_shows_what_bills(sim, head, tmp_path):
    make(head)
    damage(tmp_path / "head")
    shown = status_command.look(rig.session(sim, tmp_path / "head"), None, 5)
    assert "1 instance, $4.29/h" in render(shown)
    assert "the state file cannot be used" in render(shown)
