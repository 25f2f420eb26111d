"""The head: where it goes, and how `ray up` finds it."""

import pytest
from click import ClickException

from autoscaler.simulator import FailNext, Outage, Stockout
from tests import provider_rig as rig


def make(provider):
    return list(provider.create_node(rig.node_config("head"), rig.ray_tags("head"), 1))


def test_the_head_goes_where_its_workers_can_be(sim, laptop):
    sim.add_fault(Stockout(rig.H100, rig.REGION))
    sim.add_fault(Stockout(rig.A100, rig.REGION))
    (node,) = make(laptop)
    assert sim.cloud.instances[node].spec.region == "us-east-1"


def test_the_heads_region_holds_before_its_type(sim, laptop):
    """A dearer head beside its workers, not the cheaper one where they cannot be."""
    sim.add_fault(Stockout(rig.CPU, "us-west-1"))
    sim.add_fault(Stockout(rig.H100, "us-east-1"))
    sim.add_fault(Stockout(rig.A100, "us-east-1"))
    (node,) = make(laptop)
    instance = sim.cloud.instances[node]
    assert (instance.spec.region, instance.type.name) == ("us-west-1", rig.A10)


def test_a_region_that_refuses_the_head_gives_way(sim, laptop):
    sim.add_fault(Stockout("*", rig.REGION, advertised=True))
    (node,) = make(laptop)
    assert sim.cloud.instances[node].spec.region == "us-east-1"


@pytest.mark.parametrize(
    ("away_s", "message", "alive"),
    [(150.0, "the instance will be terminated if it appears", 0), (5000.0, "run `ray down`", 1)],
)
def test_no_process_is_left_to_end_an_unclear_head_later(sim, laptop, away_s, message, alive):
    sim.add_fault(FailNext(failure=504, committed=True))
    client = laptop.cluster.session.client
    launch = client.launch

    def launch_and_lose(request):
        try:
            return launch(request)
        finally:
            sim.add_fault(Outage(to_s=away_s))

    client.launch = launch_and_lose
    with pytest.raises(ClickException, match=message):
        make(laptop)
    assert sim.invariants.report()["alive"] == alive


def test_a_file_system_decides_the_region(tmp_path):
    sim = rig.account()
    sim.cloud.account.create_file_system("data", "us-east-1", sim.clock.now())
    section = rig.laptop_section(rig.cluster_yaml(filesystems=["data"]))
    laptop = rig.provider_on(section, rig.session(sim, tmp_path))
    (node,) = make(laptop)
    spec = sim.cloud.instances[node].spec
    assert (spec.region, spec.file_system_names) == ("us-east-1", ("data",))


def test_the_new_head_is_found_at_once_by_all_its_tags(sim, laptop):
    tags = rig.ray_tags("head")
    (node,) = laptop.create_node(rig.node_config("head"), tags, 1)
    assert laptop.non_terminated_nodes(tags) == [node]
    with pytest.raises(ClickException, match="has a head already"):
        laptop.create_node(rig.node_config("head"), tags, 1)
    assert sim.invariants.report()["instances"] == 1


def test_the_ssh_key_is_registered_once(sim, tmp_path):
    section = rig.laptop_section(rig.CLUSTER) | {rig.PUBLIC_KEY: "ssh-ed25519 BBBB"}
    for name in ("one", "two"):
        laptop = rig.provider_on(section, rig.session(sim, tmp_path / name), name)
        make(laptop)
    (added,) = [k for k in sim.cloud.account.ssh_keys.values() if k.name != "sim-key"]
    assert added.public_key == "ssh-ed25519 BBBB" and added.name.startswith("raylambda-")


def test_the_ssh_key_is_registered_though_the_answer_is_lost(sim, tmp_path):
    sim.add_fault(FailNext("add_ssh_key", "reset", committed=True))
    section = rig.laptop_section(rig.CLUSTER) | {rig.PUBLIC_KEY: "ssh-ed25519 BBBB"}
    make(rig.provider_on(section, rig.session(sim, tmp_path)))
    assert len(sim.cloud.account.ssh_keys) == 2
