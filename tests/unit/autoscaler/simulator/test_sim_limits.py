"""Rate limits, and the count of requests over them."""

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]

RATES = {"request_interval_s": 1.0, "launch_interval_s": 12.0}


def over(client: Any) -> tuple[int, int]:
    report = client.sim.invariants.report()
    return report["requests_over_rate"], report["launches_over_rate"]


def test_one_request_a_second(cloud_client: Make) -> None:
    c = cloud_client(**RATES)
    assert c.call("GET", "/instances").status_code == 200
    c.sim.advance(0.9)
    assert c.error("GET", "/instances") == (429, "global/rate-limited")
    c.sim.advance(0.1)
    assert c.call("GET", "/instances").status_code == 200
    assert over(c) == (1, 0)


def test_one_launch_in_twelve_seconds_whoever_asks(cloud_client: Make) -> None:
    c = cloud_client(**RATES, api_keys=("sim", "second"))
    c.launch()
    c.sim.advance(11)
    body = c.launch_body()
    path = "/instance-operations/launch"
    assert c.call("POST", path, body, key="second").status_code == 429
    assert len(c.sim.cloud.instances) == 1
    c.sim.advance(1)
    assert c.call("POST", path, body, key="second").status_code == 200
    assert over(c) == (0, 1)


def test_a_launch_is_a_request_unless_it_is_not(cloud_client: Make) -> None:
    c = cloud_client(**RATES)
    c.launch()
    assert c.call("GET", "/instances").status_code == 429
    free = cloud_client(**RATES, launches_use_request_allowance=False)
    free.launch()
    assert free.call("GET", "/instances").status_code == 200


def test_keys_may_have_a_rate_each(cloud_client: Make) -> None:
    c = cloud_client(**RATES, api_keys=("sim", "second"), rate_scope="key")
    assert c.call("GET", "/instances").status_code == 200
    assert c.call("GET", "/instances", key="second").status_code == 200


def test_bursts(cloud_client: Make) -> None:
    c = cloud_client(request_interval_s=0, launch_interval_s=12, launch_burst=5)
    for _ in range(5):
        c.launch()
    assert c.refused()[0] == 429
    c.sim.advance(12)
    c.launch()
    assert c.refused()[0] == 429


@pytest.mark.parametrize("used", [True, False])
def test_refused_launches_use_the_allowance_or_do_not(cloud_client: Make, used: bool) -> None:
    c = cloud_client(
        request_interval_s=0, launch_interval_s=12, refused_launches_use_allowance=used
    )
    assert c.refused(region_name="moon-1")[0] == 404
    response = c.call("POST", "/instance-operations/launch", c.launch_body())
    assert response.status_code == (429 if used else 200)


def test_a_wrong_key_uses_no_allowance(cloud_client: Make) -> None:
    c = cloud_client(**RATES, refused_launches_use_allowance=False)
    path = "/instance-operations/launch"
    c.launch()
    for _ in range(3):
        assert c.error("POST", path, c.launch_body(), key="wrong")[0] == 401
    c.sim.advance(1)
    assert c.call("GET", "/instances").status_code == 200
    c.sim.advance(1)
    assert c.refused()[0] == 429


@pytest.mark.parametrize(("given", "expected"), [(False, None), (True, "8")])
def test_retry_after_is_given_or_not(cloud_client: Make, given: bool, expected: str | None) -> None:
    c = cloud_client(**RATES, send_retry_after=given)
    c.launch()
    c.sim.advance(4.5)
    response = c.call("POST", "/instance-operations/launch", c.launch_body())
    assert (response.status_code, response.headers.get("Retry-After")) == (429, expected)


def test_a_429_may_have_no_body(cloud_client: Make) -> None:
    c = cloud_client(**RATES, rate_limited_code=None)
    c.launch()
    response = c.call("GET", "/instances")
    assert (response.status_code, response.content) == (429, b"")


def test_what_is_over_is_counted_when_not_enforced(cloud_client: Make) -> None:
    c = cloud_client(**RATES, enforce_rates=False)
    c.launch()
    c.launch()
    c.listed()
    assert over(c) == (2, 1)


def test_a_client_that_keeps_the_rate_is_never_refused(cloud_client: Make) -> None:
    c = cloud_client(**RATES)
    # 0.1 s has no exact binary form: ten of them must still make a second.
    for _ in range(300):
        assert c.call("GET", "/regions").status_code == 200
        for _ in range(10):
            c.sim.advance(0.1)
    assert over(c) == (0, 0)
