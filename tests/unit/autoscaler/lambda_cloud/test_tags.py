import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.domain import Instance, InstanceType, LaunchRequest, Status
from autoscaler.errors import ConfigError
from autoscaler.lambda_cloud import tags
from autoscaler.lambda_cloud.wire import check_launch
from tests.unit.autoscaler.lambda_rig import worker_spec

TYPE = InstanceType("gpu_1x_a10", 129, 30, 200, 1)
RAY = worker_spec().ray_tags
clusters = st.text(min_size=1, max_size=128)
nonces = st.from_regex(r"[0-9a-f]{16}", fullmatch=True)


def machine(name="", **tag_values):
    found = {key.replace("_", "-"): value for key, value in tag_values.items()}
    return Instance("i1", Status.ACTIVE, "us-west-1", TYPE, name=name, tags=found)


def launched(cluster="demo", nonce="0" * 16):
    sent = tags.launch_tags(RAY, cluster, nonce, 1234.9)
    name = tags.instance_name(cluster, "worker", nonce)
    return Instance("i1", Status.ACTIVE, "us-west-1", TYPE, name=name, tags=sent)


def test_our_names_for_rays_tags_are_rays():
    # Read as text: importing Ray takes seconds, and these files must not need it.
    from importlib.util import find_spec

    spec = find_spec("ray")
    assert spec is not None and spec.submodule_search_locations
    path = f"{spec.submodule_search_locations[0]}/autoscaler/tags.py"
    with open(path) as file:
        text = file.read()
    for ours in (
        *(tags.NODE_KIND, tags.USER_NODE_TYPE, tags.NODE_NAME, tags.NODE_STATUS),
        *(tags.LAUNCH_CONFIG, tags.LAUNCH_REQUEST, tags.RUNTIME_CONFIG, tags.FILE_MOUNTS),
        *(tags.CLUSTER, tags.KIND_HEAD, tags.KIND_WORKER, tags.STATUS_UNINITIALIZED),
    ):
        assert f'"{ours}"' in text, ours


def test_what_changes_is_not_sent_and_what_stays_is():
    sent = launched().tags
    assert not tags.MUTABLE & set(sent)
    assert sent[tags.USER_NODE_TYPE] == "worker.a10"
    assert sent[tags.LAUNCH_CONFIG] == RAY[tags.LAUNCH_CONFIG]
    assert (sent[tags.NONCE], sent[tags.CREATED]) == ("0" * 16, "1234")
    assert tags.mutable_tags(RAY) == {tags.NODE_STATUS: "uninitialized"}


def test_ray_sees_both_parts_and_a_status_always():
    seen = tags.node_tags(launched(), {tags.NODE_STATUS: "up-to-date", tags.RUNTIME_CONFIG: "h"})
    assert seen is not None
    assert seen[tags.NODE_STATUS] == "up-to-date" and seen[tags.RUNTIME_CONFIG] == "h"
    assert seen[tags.CLUSTER] == "demo"
    bare = tags.node_tags(launched(), {})
    assert bare is not None and bare[tags.NODE_STATUS] == "uninitialized"


def test_local_tags_cannot_change_what_was_launched():
    seen = tags.node_tags(launched(), {tags.USER_NODE_TYPE: "other"})
    assert seen is not None and seen[tags.USER_NODE_TYPE] == "worker.a10"


@pytest.mark.parametrize("missing", tags.REQUIRED)
@pytest.mark.parametrize("value", [None, ""])
def test_an_incomplete_instance_is_quarantined(missing, value):
    whole = launched()
    kept = {k: v for k, v in whole.tags.items() if k != missing}
    if value is not None:
        kept[missing] = value
    broken = Instance("i1", Status.ACTIVE, "us-west-1", TYPE, name=whole.name, tags=kept)
    assert tags.node_tags(broken, {}) is None
    # And yet it is known as the cluster's, so that it can be ended.
    assert tags.belongs_to(broken, "demo")
    assert tags.nonce_of(broken) == "0" * 16


@pytest.mark.parametrize("missing", [tags.NODE_KIND, tags.USER_NODE_TYPE])
def test_a_launch_that_ray_did_not_name_is_refused(missing):
    with pytest.raises(ConfigError, match=missing):
        tags.launch_tags({k: v for k, v in RAY.items() if k != missing}, "c", "n", 0.0)


def test_lambdas_own_prefix_is_refused():
    with pytest.raises(ConfigError, match="lambda-ai-"):
        tags.launch_tags({**RAY, "lambda-ai-x": "1"}, "c", "n", 0.0)


@pytest.mark.parametrize("name", ["", "x" * 129])
def test_a_cluster_name_that_no_tag_holds_is_named(name):
    with pytest.raises(ConfigError, match="cluster_name"):
        tags.check_cluster_name(name)


@given(clusters, st.sampled_from(["head", "worker"]), nonces)
def test_every_cluster_makes_names_that_lambda_takes(cluster, kind, nonce):
    tags.check_cluster_name(cluster)
    name = tags.instance_name(cluster, kind, nonce)
    assert len(name) <= 54
    check_launch(LaunchRequest("r", "t", "k", name, hostname=name))
    lost = machine(name)
    assert tags.nonce_of(lost) == nonce
    assert tags.belongs_to(lost, cluster)


@given(clusters, clusters, nonces)
def test_a_name_belongs_to_one_cluster(one, other, nonce):
    lost = machine(tags.instance_name(one, "head", nonce))
    assert tags.belongs_to(lost, other) == (one == other)


def test_strangers_are_left_alone():
    for stranger in (
        machine("my notebook"),
        machine("ray-demo-w-xyz"),
        machine("", ray_cluster_name="other"),
        machine(tags.instance_name("demo", "head", "0" * 16), ray_cluster_name="other"),
    ):
        assert not tags.belongs_to(stranger, "demo")


def test_creation_times():
    assert tags.created_s(launched()) == 1234.0
    assert tags.created_s(machine()) is None
    assert tags.created_s(machine(raylambda_created="soon")) is None


def test_nonces_are_fresh_and_plain():
    made = {tags.new_nonce() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch("[0-9a-f]{16}", nonce) for nonce in made)


def test_the_kind_comes_from_the_tag_or_else_the_name():
    for kind in ("head", "worker"):
        name = tags.instance_name("demo", kind, "0" * 16)
        assert tags.kind_of(machine(name)) == kind
    assert tags.kind_of(machine("", ray_node_type="head")) == "head"
    assert tags.kind_of(machine("")) == "worker"


def test_a_tag_that_lambda_lost_is_known_where_it_was_given():
    whole = launched()
    kept = {k: v for k, v in whole.tags.items() if k != tags.USER_NODE_TYPE}
    broken = Instance("i1", Status.ACTIVE, "us-west-1", TYPE, name=whole.name, tags=kept)
    seen = tags.node_tags(broken, {tags.USER_NODE_TYPE: "worker.a10"})
    assert seen is not None and seen[tags.USER_NODE_TYPE] == "worker.a10"
