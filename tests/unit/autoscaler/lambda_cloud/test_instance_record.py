"""A record of Lambda's that cannot be read whole: no node is lost by it, and it can be ended."""

from autoscaler.domain import Instance, InstanceType, Status
from tests import provider_rig as rig
from tests.provider_rig import make
from tests.unit.autoscaler.lambda_rig import Scripted, instance_json, scripted


def test_an_instance_with_an_id_is_read_as_far_as_it_can_be(caplog):
    tag = {"key": "ray-cluster-name", "value": "demo"}
    records = [
        instance_json("region", region={"n": 1}, tags=[tag]),
        {"id": "bare", "status": 7, "tags": [tag, {"value": "no key"}], "instance_type": "odd"},
        instance_json("whole"),
    ]
    wired = scripted(*[Scripted(body={"data": records})] * 2)
    region, bare, whole = wired.client.list_instances()
    assert (region.status, region.region) == (Status.ACTIVE, "?") and region.is_partial
    assert region.instance_type.name == "gpu_1x_a10"
    assert (bare.status, bare.instance_type.name) == (Status.UNKNOWN, "?")
    assert bare.tags == region.tags == {"ray-cluster-name": "demo"}
    assert not whole.is_partial
    wired.client.list_instances()
    said = [record.message for record in caplog.records if "read in part" in record.message]
    assert len(said) == 2 and "data[0].region.name" in said[0]


def read_in_part(provider):
    """From now on each list and each machine's own page gives no more than the ids."""
    client = provider.cluster.session.client
    listed, got = client.list_instances, client.get_instance

    def strip(instance):
        unread = InstanceType("?")
        return Instance(instance.id, Status.UNKNOWN, "?", unread, is_partial=True)

    client.list_instances = lambda: tuple(strip(i) for i in listed())
    client.get_instance = lambda id_: strip(got(id_))


def test_it_changes_no_node_and_hides_none_from_ray_down(sim, head):
    nodes = make(head, 2)
    sim.advance(400.0)
    head.non_terminated_nodes({})
    read_in_part(head)
    for _ in range(5):
        sim.advance(10.0)
        assert set(head.non_terminated_nodes({})) == set(nodes)
        assert all(head.is_running(node) for node in nodes)
    assert all(head.node_tags(node)["ray-user-node-type"] == "gpu" for node in nodes)
    # A process that has seen nothing else goes by the ids that are written down.
    section = rig.head_section(rig.CLUSTER)
    again = rig.provider_on(section, head.cluster.session)
    assert set(again.cluster.end().ended) == set(nodes)
    assert sim.invariants.report()["alive"] == 0
