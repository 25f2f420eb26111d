"""The invariants and the call log: what they count."""

from collections.abc import Callable
from typing import Any

from autoscaler.simulator import FailNext

Make = Callable[..., Any]


def nonce(value: str) -> list[dict[str, str]]:
    return [{"key": "raylambda-nonce", "value": value}]


def test_nothing_leaks_before_nothing_is_expected(cloud_client: Make) -> None:
    c = cloud_client()
    c.launch()
    c.sim.advance(1000)
    report = c.sim.invariants.report()
    assert (report["leaked_instances"], report["leaked_seconds"], report["alive"]) == (0, 0, 1)


def test_leaks_are_counted_in_instances_and_seconds(cloud_client: Make) -> None:
    c = cloud_client()
    left, ended = c.launch(), c.launch()
    c.sim.advance(100)
    c.terminate(ended)
    c.sim.invariants.expect_none()
    c.sim.add_fault(FailNext("launch", 504, committed=True, commit_after_s=40))
    c.refused()
    c.sim.advance(100)
    report = c.sim.invariants.report()
    assert (report["leaked_instances"], report["leaked_seconds"]) == (2, 100 + 60)
    c.terminate(left)
    c.sim.advance(10)
    assert c.sim.invariants.report()["leaked_seconds"] == 100 + 70


def test_spans_in_which_nothing_may_run_add_up(cloud_client: Make) -> None:
    c = cloud_client()
    c.launch()
    for _ in range(2):
        c.sim.invariants.expect_none()
        c.sim.advance(10)
        c.sim.invariants.expect_none(False)
        c.sim.advance(100)
    assert c.sim.invariants.report()["leaked_seconds"] == 20
    assert c.sim.invariants.report()["leaked_instances"] == 1


def test_duplicates_by_nonce_and_by_name(cloud_client: Make) -> None:
    c = cloud_client(nonce_tag="raylambda-nonce")
    first = c.launch(name="one", tags=nonce("n1"))
    c.launch(name="two", tags=nonce("n2"))
    assert c.sim.invariants.report()["duplicate_nonces"] == 0
    c.launch(name="three", tags=nonce("n1"))
    c.terminate(first)
    c.sim.advance(1)
    c.launch(name="one")
    report = c.sim.invariants.report()
    assert (report["duplicate_nonces"], report["duplicate_names"]) == (1, 0)
    c.launch(name="one")
    assert c.sim.invariants.report()["duplicate_names"] == 1


def test_requests_are_counted_by_endpoint(cloud_client: Make) -> None:
    c = cloud_client()
    c.launch()
    c.listed()
    c.listed()
    c.error("GET", "/instances/unknown")
    c.call("GET", "/nowhere", documented=False)
    report = c.sim.invariants.report()
    assert report["requests_by_endpoint"] == {"launch": 1, "list": 2, "get": 1, "unknown": 1}
    assert report["requests"] == 5


def test_the_call_log_says_what_was_asked_and_not_with_which_key(cloud_client: Make) -> None:
    c = cloud_client(api_keys=("sim", "very-secret"))
    c.launch()
    c.refused(region_name="moon-1")
    c.call("GET", "/instances", key="very-secret")
    lines = list(c.sim.api.calls)
    assert [(x.endpoint, x.subject, x.outcome, x.code) for x in lines] == [
        ("launch", "gpu_1x_a10 us-west-1", 200, ""),
        ("launch", "gpu_1x_a10 moon-1", 404, "global/object-does-not-exist"),
        ("list", "", 200, ""),
    ]
    assert lines[0].key == lines[1].key != lines[2].key
    assert "very-secret" not in repr(lines)
