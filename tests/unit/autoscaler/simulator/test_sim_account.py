"""SSH keys, file systems, firewall rulesets."""

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]

INVALID = (400, "global/invalid-parameters")


def test_ssh_keys_come_and_go(cloud_client: Make) -> None:
    c = cloud_client()
    public = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== me"
    key = c.data("POST", "/ssh-keys", {"name": "mine", "public_key": public})
    assert key == {"id": key["id"], "name": "mine", "public_key": public}
    assert c.data("GET", "/ssh-keys") == [key]
    assert c.error("POST", "/ssh-keys", {"name": "mine", "public_key": public}) == INVALID
    assert c.error("POST", "/ssh-keys", {"name": "n" * 65, "public_key": public}) == INVALID
    assert c.data("DELETE", f"/ssh-keys/{key['id']}") == {}
    assert c.error("DELETE", f"/ssh-keys/{key['id']}") == (404, "global/not-found")
    assert c.data("GET", "/ssh-keys") == []


def test_a_key_pair_is_made_when_none_is_given(cloud_client: Make) -> None:
    c = cloud_client()
    pair = c.data("POST", "/ssh-keys", {"name": "made"})
    assert pair["private_key"].startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    assert pair["public_key"].startswith("ssh-ed25519 ")
    assert "private_key" not in c.data("GET", "/ssh-keys")[0]


def test_a_file_system_in_use_stays(cloud_client: Make) -> None:
    c = cloud_client(terminating_s=(10, 10))
    fs = c.data("POST", "/filesystems", {"name": "work", "region": "us-west-1"})
    assert (fs["mount_point"], fs["is_in_use"]) == ("/lambda/nfs/work", False)
    i = c.launch(file_system_names=["work"])
    assert c.data("GET", "/file-systems")[0]["is_in_use"] is True
    in_use = (400, "filesystems/filesystem-in-use")
    assert c.error("DELETE", f"/filesystems/{fs['id']}") == in_use
    c.terminate(i)
    assert c.error("DELETE", f"/filesystems/{fs['id']}") == in_use
    c.sim.advance(10)
    assert c.data("DELETE", f"/filesystems/{fs['id']}") == {"deleted_ids": [fs["id"]]}
    gone = (404, "global/object-does-not-exist")
    assert c.error("DELETE", f"/filesystems/{fs['id']}") == gone


def test_file_systems_that_cannot_be(cloud_client: Make) -> None:
    c = cloud_client(max_file_systems=1)
    c.data("POST", "/filesystems", {"name": "work", "region": "us-west-1"})
    again = {"name": "work", "region": "us-west-1"}
    assert c.error("POST", "/filesystems", again) == (400, "global/duplicate")
    more = {"name": "more", "region": "us-west-1"}
    assert c.error("POST", "/filesystems", more) == (400, "global/quota-exceeded")
    assert c.error("POST", "/filesystems", {"name": "x", "region": "moon-1"}) == INVALID
    assert c.error("POST", "/filesystems", {"name": "1x", "region": "us-west-1"}) == INVALID


def test_a_firewall_ruleset_in_use_stays(cloud_client: Make) -> None:
    c = cloud_client(terminating_s=(0, 0))
    rule = {"protocol": "icmp", "source_network": "10.0.0.0/8", "description": "ping"}
    body = {"name": "mine", "region": "us-west-1", "rules": [rule]}
    ruleset = c.data("POST", "/firewall-rulesets", body)
    assert ruleset["rules"] == [rule]
    i = c.launch(firewall_rulesets=[{"id": ruleset["id"]}])
    other = c.refused(region_name="us-east-1", firewall_rulesets=[{"id": ruleset["id"]}])
    assert other == (404, "global/object-does-not-exist")
    path = f"/firewall-rulesets/{ruleset['id']}"
    in_use = (400, "firewall-rulesets/firewall-ruleset-in-use")
    assert c.error("DELETE", path) == in_use
    c.terminate(i)
    c.sim.advance(0)
    assert c.data("DELETE", path) == {}
    assert c.error("DELETE", path) == (404, "global/object-does-not-exist")


@pytest.mark.parametrize(
    "rule",
    [
        {"protocol": "tcp"},
        {"protocol": "icmp", "port_range": [1, 2]},
        {"protocol": "tcp", "port_range": [5, 4]},
        {"protocol": "tcp", "port_range": [0, 4]},
        {"protocol": "tcp", "port_range": [22]},
        {"protocol": "tcp", "port_range": [1, 2], "source_network": "10.0.0.1/8"},
    ],
)
def test_firewall_rules_that_cannot_be(cloud_client: Make, rule: dict[str, Any]) -> None:
    rules = [{"source_network": "0.0.0.0/0", "description": "", **rule}]
    body = {"name": "mine", "region": "us-west-1", "rules": rules}
    assert cloud_client().error("POST", "/firewall-rulesets", body) == INVALID
