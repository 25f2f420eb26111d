import pytest

from autoscaler.domain import Offering
from autoscaler.errors import (
    AmbiguousLaunchError,
    AuthError,
    BudgetError,
    CapacityError,
    ConfigError,
    QuotaError,
    UnavailableError,
)
from autoscaler.events import utc
from autoscaler.instances.unavailable_offerings import Reason
from autoscaler.money.budget import Caps
from autoscaler.simulator import FailNext, Outage, RevokeKey, Stockout, Window
from tests.unit.autoscaler.lambda_rig import REGION, Host, simulation

H100, A100, A10 = "gpu_1x_h100_sxm5", "gpu_1x_a100", "gpu_1x_a10"


@pytest.fixture
def sim():
    return simulation()


@pytest.fixture
def host(sim, tmp_path):
    return Host(sim, tmp_path)


def launches(sim):
    return sim.invariants.report()["requests_by_endpoint"].get("launch", 0)


def test_the_first_choice_is_taken_where_it_is(sim, host):
    assert host.acquire(H100, A100).offering == Offering(H100, REGION)
    assert launches(sim) == 1


def test_an_advertised_type_is_asked_for_first(sim, host):
    sim.add_fault(Stockout(H100))
    launched = host.acquire(H100, A100)
    assert (launched.offering.instance_type, launches(sim)) == (A100, 1)


def test_a_type_that_is_advertised_and_refused_gives_way_within_one_slot(sim, host):
    sim.add_fault(Stockout(H100, advertised=True))
    started_s = host.clock()
    assert host.acquire(H100, A100).offering.instance_type == A100
    assert host.clock() - started_s <= 12.0 + 3.0
    assert launches(sim) == 2
    (marked,) = host.told("offering-unavailable")
    assert marked["type"] == H100 and marked["region"] == REGION
    assert marked["code"] == "instance-operations/launch/insufficient-capacity"
    assert str(marked["next_try"]).startswith("2026-01-01T00:00:")
    # The next node does not ask again for what has just refused.
    host.acquire(H100, A100)
    assert launches(sim) == 3


def test_a_region_that_refuses_gives_way_to_the_next(sim, host):
    sim.add_fault(Stockout(A10, REGION, advertised=True))
    launched = host.acquire(A10, regions=(REGION, "us-east-1"))
    assert launched.offering == Offering(A10, "us-east-1")


def test_a_total_stockout_is_refused_with_the_next_try(sim, host):
    sim.add_fault(Stockout())
    with pytest.raises(CapacityError, match="no capacity; next try 2026-") as caught:
        host.acquire(H100, A100)
    assert caught.value.next_try_s is not None and caught.value.next_try_s > host.clock()
    before = launches(sim)
    with pytest.raises(CapacityError):
        host.acquire(H100, A100)
    assert launches(sim) == before


@pytest.mark.parametrize("advertised", [False, True])
def test_a_long_stockout_costs_few_launches(sim, host, advertised):
    """Asked every five seconds for ten minutes, as Ray's autoscaler does."""
    sim.add_fault(Stockout(advertised=advertised))
    started_s = host.clock()
    while host.clock() - started_s < 600:
        with pytest.raises(CapacityError):
            host.acquire(H100, A100)
        sim.advance(5.0)
    assert launches(sim) / 10 <= 2.5
    assert sim.invariants.report()["launches_over_rate"] == 0


@pytest.mark.parametrize("opens_s", [100.0, 700.0])
def test_capacity_that_opens_for_84_seconds_is_caught(tmp_path, opens_s):
    sim = simulation(windows=(Window(H100, "*", opens_s, opens_s + 84.0),))
    host = Host(sim, tmp_path)
    began_s = host.clock()
    while host.clock() - began_s < opens_s + 84.0:
        try:
            launched = host.acquire(H100)
        except CapacityError:
            sim.advance(5.0)
        else:
            assert host.clock() - began_s - opens_s <= 84.0
            assert launched.offering.instance_type == H100
            return
    pytest.fail("the opening was missed")


def test_a_launch_slot_that_comes_too_late_is_not_waited_for(host):
    host.acquire()
    started_s = host.clock()
    with pytest.raises(UnavailableError, match="rate"):
        host.acquire(within_s=5.0)
    assert host.clock() - started_s < 2.0


def test_what_cannot_be_paid_is_not_asked_for(sim, host):
    with pytest.raises(BudgetError, match="max_price_cents_per_hour allows \\$1.00/h"):
        host.acquire(A10, caps=Caps(max_price_cents_per_hour=100))
    assert launches(sim) == 0
    for _ in range(3):
        with pytest.raises(BudgetError):
            host.acquire(A10, caps=Caps(max_price_cents_per_hour=100))
    assert len(host.told("launch-denied")) == 1


def test_a_cheaper_candidate_that_fits_is_taken(host):
    launched = host.acquire(H100, A10, caps=Caps(max_price_cents_per_hour=200))
    assert launched.offering.instance_type == A10
    with pytest.raises(BudgetError, match="nor 1 other"):
        host.acquire(H100, A10, caps=Caps(max_price_cents_per_hour=200))


def test_an_unknown_price_is_not_launched(sim, host):
    with pytest.raises(BudgetError, match="price is unknown"):
        host.acquire("gpu_99x_unheard_of")
    assert launches(sim) == 0


def test_the_total_counts_what_was_spent(sim, host):
    caps = Caps(max_total_cents=300)
    host.acquire(A10, caps=caps)
    sim.advance(3600.0)
    with pytest.raises(BudgetError, match="max_total_cents"):
        host.acquire(A10, caps=caps)


def test_a_used_up_quota_makes_everything_unavailable_for_a_while(sim, host):
    sim.add_fault(FailNext(failure=400, code="global/quota-exceeded"))
    with pytest.raises(QuotaError):
        host.acquire()
    with pytest.raises(CapacityError, match="quota"):
        host.acquire(A100)
    assert launches(sim) == 1
    sim.advance(301.0)
    assert host.acquire(A100)
    assert host.unavailable.all() == []


def test_a_refused_key_stops_launching(sim, host):
    sim.add_fault(FailNext(failure=401, code="global/invalid-api-key"))
    with pytest.raises(AuthError):
        host.acquire()
    with pytest.raises(CapacityError, match="refuses the API key"):
        host.acquire()
    assert launches(sim) == 1
    sim.add_fault(RevokeKey())
    sim.advance(30.0)
    with pytest.raises(AuthError):
        host.acquire()
    assert launches(sim) == 1


def test_a_config_error_is_the_users_and_makes_nothing_unavailable(sim, host):
    sim.add_fault(FailNext(failure=404, code="global/object-does-not-exist"))
    with pytest.raises(ConfigError, match="object-does-not-exist"):
        host.acquire()
    assert host.unavailable.all() == []


def test_a_429_is_waited_out_under_a_new_nonce(sim, host, caplog):
    sim.add_fault(FailNext(failure=429))
    assert host.acquire()
    (limited,) = host.told("launch-rate-limited")
    assert (limited["type"], limited["region"]) == (A10, REGION)
    assert f"{A10} in {REGION}: the account's rate" in caplog.text
    (refused,), (launched,) = host.told("launch-refused"), host.told("launched")
    assert refused["code"] == limited["code"] == "global/internal-error"
    assert utc(limited["time"]) < limited["next_try"] <= utc(launched["time"])
    assert refused["nonce"] != launched["nonce"]
    assert sim.invariants.report()["duplicate_nonces"] == 0


def test_an_unclear_launch_releases_its_probe(sim, host):
    host.unavailable.mark_unavailable(
        Offering(A10, REGION), Reason.STOCKOUT, host.clock(), advertised=False
    )
    sim.advance(31.0)
    sim.add_fault(FailNext(failure=504))
    with pytest.raises(AmbiguousLaunchError):
        host.acquire(A10)
    assert host.acquire(A10)


def test_prices_and_offerings_serve_while_the_list_of_types_is_away(sim, host):
    sim.add_fault(Outage("instance_types"))
    assert host.acquire(A10, within_s=300.0).price_cents_per_hour == 129


def test_suspect_offerings_are_tried_last(sim, host):
    offering = Offering(H100, REGION)
    host.unavailable.mark_unavailable(offering, Reason.SUSPECT, host.clock(), advertised=True)
    assert host.acquire(H100, A100).offering.instance_type == A100
    sim.advance(601.0)
    assert host.acquire(H100, A100).offering == offering
    # One at a time: until that machine has passed its check, the next goes elsewhere.
    assert host.acquire(H100, A100).offering.instance_type == A100
    host.unavailable.mark_healthy(offering)
    assert host.acquire(H100, A100).offering == offering
