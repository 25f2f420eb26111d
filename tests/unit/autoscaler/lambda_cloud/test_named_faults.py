"""The benchmark's cases that are quick, with the figures that must hold; ours beside plain."""

import logging

import pytest

from benchmarks import provider_faults as cases


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_h100_sold_out_gives_way_to_a100_within_one_launch_slot():
    ours = cases.sold_out("ours")
    assert ours["A100 asked for after s of the first refusal"] <= 15
    assert ours["launches of H100"] <= 3 and ours["launches of A100"] >= 2
    assert cases.sold_out("plain")["launches of H100"] > 20


def test_a_total_stockout_costs_few_launches():
    ours = cases.storm("ours", 300.0)
    assert ours["launches a minute"] <= 5 and ours["over the account's rate"] == 0
    assert cases.storm("plain", 30.0)["launches a minute"] > 20


def test_ray_down_with_a_launch_in_flight_ends_at_zero():
    assert cases.down("ours")["instances left"] == 0
    assert cases.down("plain")["instances left"] >= 1


def test_a_minute_without_the_api_loses_no_worker():
    assert cases.outage("ours") == {"workers": 6, "lost": 0, "rounds without a list": 0}


def test_one_list_that_omits_everything_reinstalls_nothing():
    assert cases.omission("ours")["Ray reinstalled over live workers"] == 0
    assert cases.omission("plain")["Ray reinstalled over live workers"] == 6


def test_launches_without_a_clear_answer_make_nothing_twice():
    assert cases.ambiguous("ours")["machines made"] <= 6
    assert cases.ambiguous("plain")["machines made"] > 6


@pytest.mark.parametrize("count", [1, 100, 1000])
def test_a_round_is_one_request_however_many_nodes(count):
    assert cases.reconcile("ours", count)["requests a round"] == 1
