"""Launches: what one may ask for, and the error of each refusal."""

from collections.abc import Callable
from typing import Any

import pytest

from autoscaler.simulator.cloud.offers import IMAGES

Make = Callable[..., Any]

INVALID = (400, "global/invalid-parameters")
MISSING = (404, "global/object-does-not-exist")


def test_a_full_launch_shows_everything_it_asked_for(cloud_client: Make) -> None:
    c = cloud_client()
    fs = c.data("POST", "/filesystems", {"name": "work", "region": "us-west-1"})
    other = c.data("POST", "/filesystems", {"name": "more", "region": "us-west-1"})
    rules = [
        {
            "protocol": "tcp",
            "port_range": [22, 22],
            "source_network": "0.0.0.0/0",
            "description": "",
        }
    ]
    ruleset = c.data(
        "POST", "/firewall-rulesets", {"name": "ssh", "region": "us-west-1", "rules": rules}
    )
    image = c.data("GET", "/images")[0]
    region_image = next(
        i
        for i in c.data("GET", "/images")
        if i["region"]["name"] == "us-west-1" and i["architecture"] == "x86_64"
    )
    assert image["architecture"] in ("x86_64", "arm64")
    instance = c.get(
        c.launch(
            name="ray-x-worker",
            hostname="w1",
            image={"id": region_image["id"]},
            user_data="#cloud-config",
            tags=[{"key": "ray-node-type", "value": "worker"}],
            file_system_names=["work", "more"],
            file_system_mounts=[{"mount_point": "/data/x", "file_system_id": other["id"]}],
            firewall_rulesets=[{"id": ruleset["id"]}],
        )
    )
    assert instance["name"] == "ray-x-worker"
    assert instance["tags"] == [{"key": "ray-node-type", "value": "worker"}]
    assert {m["mount_point"]: m["file_system_id"] for m in instance["file_system_mounts"]} == {
        "/lambda/nfs/work": fs["id"],
        "/data/x": other["id"],
    }
    assert instance["firewall_rulesets"] == [{"id": ruleset["id"]}]
    assert instance["instance_type"]["price_cents_per_hour"] == 129
    assert "user_data" not in instance
    assert c.data("GET", "/firewall-rulesets")[0]["instance_ids"] == [instance["id"]]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"ssh_key_names": []}, INVALID),
        ({"ssh_key_names": ["k", "k"]}, INVALID),
        ({"ssh_key_names": ["nobody"]}, MISSING),
        ({"quantity": 2}, INVALID),
        ({"name": "n" * 65}, INVALID),
        ({"hostname": "Upper"}, INVALID),
        ({"tags": [{"key": "Upper", "value": ""}]}, INVALID),
        ({"tags": [{"key": "k" * 56, "value": ""}]}, INVALID),
        ({"tags": [{"key": "key", "value": "v" * 129}]}, INVALID),
        ({"tags": [{"key": "lambda-ai-owner", "value": "me"}]}, INVALID),
        ({"user_data": "x" * 1_000_001}, INVALID),
        ({"unheard_of": 1}, INVALID),
        ({"instance_type_name": "gpu_9x_z"}, MISSING),
        ({"region_name": "moon-1"}, MISSING),
        ({"file_system_names": ["nowhere"]}, MISSING),
        ({"image": {"family": "windows"}}, MISSING),
        ({"firewall_rulesets": [{"id": "none"}]}, MISSING),
    ],
)
def test_a_launch_that_cannot_be_is_refused(
    cloud_client: Make, fields: dict[str, Any], expected: tuple[int, str]
) -> None:
    c = cloud_client()
    assert c.refused(**fields) == expected
    assert not c.sim.cloud.instances


def test_one_instance_may_be_asked_for_by_quantity(cloud_client: Make) -> None:
    c = cloud_client()
    # The document's own example sends it, though its schema does not have it.
    body = c.launch_body(quantity=1)
    assert c.call("POST", "/instance-operations/launch", body).status_code == 200


def test_unknown_fields_may_be_let_through(cloud_client: Make) -> None:
    c = cloud_client(reject_unknown_fields=False)
    c.launch(unheard_of=1)


def test_tags_may_be_few_and_free(cloud_client: Make) -> None:
    c = cloud_client(max_tags=1, reserved_tag_prefix=None)
    tag = {"key": "lambda-ai-x", "value": "v"}
    c.launch(tags=[tag])
    assert c.refused(tags=[tag, {"key": "more", "value": "v"}]) == INVALID


def test_a_missing_name_may_be_answered_400(cloud_client: Make) -> None:
    c = cloud_client(launch_not_found_status=400)
    assert c.refused(region_name="moon-1") == (400, "global/object-does-not-exist")


def test_refusals_do_not_repeat_secrets(cloud_client: Make) -> None:
    c = cloud_client()
    for fields in ({"user_data": ["hush-hush"]}, {"hostname": "HUSH-HUSH"}):
        body = c.launch_body(**fields)
        reply = c.call("POST", "/instance-operations/launch", body)
        assert reply.status_code == 400
        assert "hush-hush" not in reply.text.lower()


def test_a_file_system_of_another_region_is_refused(cloud_client: Make) -> None:
    c = cloud_client()
    fs = c.data("POST", "/filesystems", {"name": "far", "region": "us-east-1"})
    wrong = (400, "instance-operations/launch/file-system-in-wrong-region")
    assert c.refused(file_system_names=["far"]) == wrong
    mount = {"mount_point": "/data", "file_system_id": fs["id"]}
    assert c.refused(file_system_mounts=[mount]) == wrong


def test_an_image_of_another_architecture_is_refused(cloud_client: Make) -> None:
    c = cloud_client()
    arm = next(i for i in IMAGES.values() if (i.architecture, i.region) == ("arm64", "us-west-1"))
    assert c.refused(image={"id": arm.id}) == INVALID
    c.launch(image={"id": arm.id}, instance_type_name="gpu_1x_gh200")
    c.launch(image={"family": arm.family}, instance_type_name="gpu_1x_gh200")
    c.launch(image={"family": arm.family})


def test_the_quota_counts_what_is_alive(cloud_client: Make) -> None:
    c = cloud_client(max_instances=2)
    first = c.launch()
    c.launch()
    assert c.refused() == (400, "global/quota-exceeded")
    c.terminate(first)
    c.launch()


def test_a_body_that_is_no_json_is_refused(cloud_client: Make) -> None:
    c = cloud_client()
    assert c.error("POST", "/instance-operations/launch", "text") == INVALID
    assert c.error("POST", "/instance-operations/launch", ["list"]) == INVALID
