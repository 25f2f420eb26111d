"""Injected faults: what each does, and that it ends."""

from collections.abc import Callable
from typing import Any

import pytest
import requests

from autoscaler.simulator import (
    AccountInactive,
    FailNext,
    InstanceFault,
    ListLag,
    Omit,
    Outage,
    RevokeKey,
    StaleList,
)
from autoscaler.simulator.cloud.fault_registry import fault_from_json

Make = Callable[..., Any]

LAUNCH = "/instance-operations/launch"
BOOT = dict.fromkeys(("cpu", "single", "multi"), (100, 100))


@pytest.mark.parametrize("committed", [True, False])
def test_a_launch_fails_with_a_status_and_may_be_committed(
    cloud_client: Make, committed: bool
) -> None:
    c = cloud_client()
    body = c.launch_body(name="ambiguous")
    c.sim.add_fault(FailNext("launch", 504, committed=committed))
    assert c.error("POST", LAUNCH, body) == (504, "global/internal-error")
    made = [i.name for i in c.sim.cloud.instances.values()]
    assert made == (["ambiguous"] if committed else [])
    c.launch()


def test_a_launch_is_reset_after_it_was_committed(cloud_client: Make) -> None:
    c = cloud_client()
    c.sim.add_fault(FailNext("launch", "reset", n=2, committed=True))
    for _ in range(2):
        with pytest.raises(requests.ConnectionError):
            c.launch()
    c.launch()
    assert len(c.listed()) == 3


def test_a_call_without_an_answer_costs_its_timeout(cloud_client: Make) -> None:
    c = cloud_client()
    c.sim.add_fault(FailNext("list", "timeout"))
    before = c.sim.clock.now()
    with pytest.raises(requests.ReadTimeout):
        c.listed()
    assert c.sim.clock.now() == before + 30


def test_a_committed_launch_may_show_up_late(cloud_client: Make) -> None:
    c = cloud_client()
    c.sim.add_fault(FailNext("launch", 504, committed=True, commit_after_s=90))
    c.error("POST", LAUNCH, c.launch_body(name="late"))
    c.sim.advance(89)
    assert c.listed() == {}
    c.sim.advance(1)
    (late,) = c.data("GET", "/instances")
    assert (late["name"], late["status"]) == ("late", "booting")


def test_a_broken_line_hides_a_refusal_too(cloud_client: Make) -> None:
    c = cloud_client()
    c.sim.add_fault(FailNext("launch", 502, committed=True))
    assert c.refused(region_name="moon-1")[0] == 502
    assert not c.sim.cloud.instances


def test_proxies_answer_html_and_halves(cloud_client: Make) -> None:
    c = cloud_client()
    c.sim.add_fault(FailNext("list", 502, body="html"))
    c.sim.add_fault(FailNext("list", 500, body="truncated"))
    html = c.call("GET", "/instances", documented=False)
    assert (html.status_code, html.headers["Content-Type"]) == (502, "text/html")
    half = c.call("GET", "/instances", documented=False)
    with pytest.raises(requests.JSONDecodeError):
        half.json()


def test_a_fault_meets_its_endpoint_only(cloud_client: Make) -> None:
    c = cloud_client()
    c.sim.add_fault(FailNext("terminate", 409, code="global/conflict"))
    i = c.launch()
    body = {"instance_ids": [i]}
    path = "/instance-operations/terminate"
    answer = c.error("POST", path, body, documented=False)
    assert answer == (409, "global/conflict")
    assert c.get(i)["status"] == "booting"


def test_an_outage_lasts_its_time_and_instances_go_on(cloud_client: Make) -> None:
    c = cloud_client(boot_s=BOOT)
    i = c.launch()
    c.sim.add_fault(Outage(from_s=50, to_s=110))
    c.sim.advance(50)
    assert c.error("GET", "/instances") == (503, "provider/internal-unavailable")
    assert c.refused()[0] == 503
    c.sim.advance(60)
    assert c.listed() == {i: "active"}


def test_list_lag_by_fault_and_by_config(cloud_client: Make) -> None:
    for c in (cloud_client(), cloud_client(list_lag_s=(20, 20))):
        if c.sim.cloud.config.list_lag_s == (0, 0):
            c.sim.add_fault(ListLag(20))
        i = c.launch()
        c.sim.advance(19)
        assert c.listed() == {}
        assert c.get(i)["status"] == "booting"
        c.sim.advance(1)
        assert c.listed() == {i: "booting"}


def test_a_stale_list_shows_the_past(cloud_client: Make) -> None:
    c = cloud_client(boot_s=BOOT, terminating_s=(5, 5))
    i = c.launch()
    c.sim.advance(100)
    c.sim.add_fault(StaleList(15))
    assert c.listed() == {i: "booting"}
    c.sim.advance(15)
    c.terminate(i)
    assert c.listed() == {i: "active"}
    c.sim.advance(15)
    assert c.listed() == {i: "terminating"}
    c.sim.advance(5)
    assert c.listed() == {}


def test_lists_leave_instances_out_a_number_of_times(cloud_client: Make) -> None:
    c = cloud_client()
    a, b = c.launch(), c.launch()
    c.sim.add_fault(Omit(a, n=2))
    assert list(c.listed()) == [b]
    assert list(c.listed()) == [b]
    assert list(c.listed()) == [a, b]


def test_lists_leave_instances_out_by_chance(cloud_client: Make) -> None:
    c = cloud_client(omitted_chance=0.2)
    for _ in range(20):
        c.launch()
    seen = [len(c.listed()) for _ in range(50)]
    assert 700 < sum(seen) < 900


def test_pages_stay_right_while_the_list_changes(cloud_client: Make) -> None:
    c = cloud_client(page_size=2, terminating_s=(0, 0))
    ids = [c.launch() for _ in range(5)]

    def page(token: str | None) -> Any:
        params = {"page_token": token} if token else None
        return c.call("GET", "/instances", params=params, documented=False).json()

    first = page(None)
    assert [i["id"] for i in first["data"]] == ids[:2]
    c.terminate(ids[0])
    second = page(first["page_token"])
    assert [i["id"] for i in second["data"]] == ids[2:4]
    last = page(second["page_token"])
    assert ([i["id"] for i in last["data"]], last["page_token"]) == (ids[4:], None)
    c.terminate(ids[1])
    newest = c.launch()
    full = page(page(None)["page_token"])
    assert ([i["id"] for i in full["data"]], full["page_token"]) == ([ids[4], newest], None)
    assert page("bm9uc2Vuc2U=")["error"]["code"] == "global/invalid-parameters"


def test_instance_faults_meet_the_next_launch_that_matches(cloud_client: Make) -> None:
    c = cloud_client(boot_s=BOOT)
    c.sim.add_fault(InstanceFault("dead_cuda", instance_type="gpu_*h100*"))
    c.sim.add_fault(InstanceFault("stuck_booting", region="us-east-1"))
    spared = c.launch()
    dead = c.launch(instance_type_name="gpu_8x_h100_sxm5")
    stuck = c.launch(region_name="us-east-1")
    healthy = c.launch(instance_type_name="gpu_8x_h100_sxm5")
    c.sim.advance(10_000)
    everyone = c.sim.cloud.instances
    assert everyone[dead].faults == {"dead_cuda"}
    assert everyone[healthy].faults == everyone[spared].faults == set()
    assert c.listed() == {
        spared: "active",
        dead: "active",
        stuck: "booting",
        healthy: "active",
    }


def test_an_instance_becomes_unhealthy_or_is_preempted(cloud_client: Make) -> None:
    c = cloud_client(boot_s=BOOT, preempted_listed_s=30)
    a, b = c.launch(), c.launch()
    c.sim.advance(100)
    c.sim.add_fault(InstanceFault("unhealthy", instance_id=a, after_s=10))
    c.sim.add_fault(InstanceFault("preempt", instance_id=b, after_s=20))
    c.sim.advance(10)
    assert c.listed() == {a: "unhealthy", b: "active"}
    c.sim.advance(10)
    assert c.listed() == {a: "unhealthy", b: "preempted"}
    c.sim.advance(30)
    assert c.listed() == {a: "unhealthy"}
    assert c.get(b)["status"] == "preempted"
    c.terminate(a)


def test_what_is_due_at_once_happens_in_the_order_it_was_planned(cloud_client: Make) -> None:
    c = cloud_client(boot_s=BOOT)
    i = c.launch()
    c.sim.add_fault(InstanceFault("unhealthy", instance_id=i, after_s=200))
    c.sim.add_fault(InstanceFault("preempt", instance_id=i, after_s=200))
    c.sim.advance(200)
    statuses = [status for _, status in c.sim.cloud.instances[i].history]
    assert statuses == ["booting", "active", "unhealthy", "preempted"]


def test_an_instance_may_lose_its_tags(cloud_client: Make) -> None:
    c = cloud_client()
    c.sim.add_fault(InstanceFault("untagged"))
    i = c.launch(tags=[{"key": "ray-node-type", "value": "head"}])
    assert c.get(i)["tags"] == []
    assert c.sim.cloud.instances[i].tags == {"ray-node-type": "head"}


def test_a_key_is_revoked_and_restored(cloud_client: Make) -> None:
    c = cloud_client(api_keys=("sim", "second"))
    fault = c.sim.add_fault(RevokeKey("sim"))
    assert c.error("GET", "/instances") == (401, "global/invalid-api-key")
    assert c.call("GET", "/instances", key="second").status_code == 200
    assert c.error("GET", "/instances", key="wrong") == (401, "global/invalid-api-key")
    c.sim.remove_fault(fault)
    assert c.listed() == {}


def test_an_account_is_closed(cloud_client: Make) -> None:
    c = cloud_client()
    c.sim.add_fault(AccountInactive())
    assert c.error("GET", "/regions") == (403, "global/account-inactive")
    assert c.refused() == (403, "global/account-inactive")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"kind": "comet"}, "kind"),
        (["stockout"], "kind"),
        ({"kind": "stockout", "color": 1}, "color"),
        ({"kind": "stockout", "region": 5}, "region"),
        ({"kind": "stockout", "from_s": 9, "to_s": 3}, "from_s"),
        ({"kind": "fail_next", "endpoint": "lunch"}, "endpoint"),
        ({"kind": "fail_next", "failure": 200}, "failure"),
        ({"kind": "fail_next", "n": 0}, "n"),
        ({"kind": "fail_next", "n": True}, "n"),
        ({"kind": "fail_next", "endpoint": "list", "commit_after_s": 1}, "commit_after_s"),
        ({"kind": "preempt", "after_s": -1}, "after_s"),
    ],
)
def test_a_fault_that_cannot_be_is_named(body: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}: "):
        fault_from_json(body)


def test_faults_read_from_json() -> None:
    body = {"kind": "fail_next", "endpoint": "launch", "failure": "reset", "committed": True}
    assert fault_from_json(body) == FailNext("launch", "reset", committed=True)
    assert fault_from_json({"kind": "outage", "to_s": None}) == Outage()
    assert fault_from_json({"kind": "preempt", "n": 3}) == InstanceFault("preempt", n=3)
    assert fault_from_json({"kind": "list_lag", "list_lag_s": 5}) == ListLag(5)
