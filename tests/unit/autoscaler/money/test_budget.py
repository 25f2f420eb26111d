import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.domain import Charge
from autoscaler.money.budget import (
    Allow,
    Caps,
    Deny,
    burn_cents_per_hour,
    decide,
    minutes_billed,
    seconds_left,
    spent_cents,
)

cents = st.integers(0, 100_000)
prices = st.integers(1, 6000)
spans = st.floats(0, 90_000, allow_nan=False)
charges = st.lists(
    st.builds(
        lambda price, start, span, over: Charge(price, start, start + span if over else None),
        prices,
        st.floats(0, 90_000),
        spans,
        st.booleans(),
    ),
    max_size=6,
)


@pytest.mark.parametrize(
    ("seconds", "minutes"), [(0, 1), (0.5, 1), (60, 1), (60.5, 2), (3600, 60), (3601, 61)]
)
def test_started_minutes_count(seconds, minutes):
    assert minutes_billed(Charge(60, 100.0), 100.0 + seconds) == minutes
    assert minutes_billed(Charge(60, 100.0, 100.0 + seconds), 1e9) == minutes


def test_a_clock_that_was_set_back_costs_a_minute_not_a_refund():
    assert minutes_billed(Charge(60, 100.0), 0.0) == 1


def test_each_machine_is_rounded_up_to_a_cent():
    # 129 cents an hour are 2.15 a minute.
    assert spent_cents([Charge(129, 0.0), Charge(129, 0.0)], 30.0) == 6


def test_what_ended_costs_no_more_and_burns_nothing():
    charges = [Charge(60, 0.0, 600.0), Charge(120, 0.0)]
    assert spent_cents(charges, 3600.0) == 10 + 120
    assert burn_cents_per_hour(charges) == 120


def test_an_unknown_price_denies_even_without_caps():
    assert isinstance(decide(Caps(), 0, 0, None), Deny)
    assert decide(Caps(), None, 0, 1) == Allow(None, 1)
    assert isinstance(decide(Caps(max_total_cents=100), None, 0, 1), Deny)
    assert isinstance(decide(Caps(), 0, None, 1), Deny)
    assert spent_cents([Charge(None, 0.0, 1.0)], 5.0) is None
    assert burn_cents_per_hour([Charge(None, 0.0)]) is None
    assert burn_cents_per_hour([Charge(None, 0.0, 1.0)]) == 0


def test_caps_are_reached_but_not_passed():
    assert decide(Caps(max_price_cents_per_hour=200), 0, 71, 129) == Allow(0, 200)
    denied = decide(Caps(max_price_cents_per_hour=199), 0, 71, 129)
    assert isinstance(denied, Deny) and "max_price_cents_per_hour allows $1.99/h" in denied.reason
    assert decide(Caps(max_total_cents=300), 100, 71, 129) == Allow(100, 200)
    denied = decide(Caps(max_total_cents=299), 100, 71, 129)
    assert isinstance(denied, Deny) and "max_total_cents allows $2.99" in denied.reason


@pytest.mark.parametrize("value", [-1, 1.5, "100", True])
def test_a_cap_names_its_field(value):
    with pytest.raises(ValueError, match="max_total_cents"):
        Caps(max_total_cents=value)


@given(cents, cents, prices, st.none() | cents, st.none() | cents)
def test_what_is_allowed_fits_both_caps_and_what_is_denied_does_not(
    spent, burn, price, hourly, total
):
    decision = decide(Caps(hourly, total), spent, burn, price)
    fits = (hourly is None or burn + price <= hourly) and (
        total is None or spent + burn + price <= total
    )
    assert isinstance(decision, Allow) == fits


@given(charges, st.floats(0, 200_000), st.floats(0, 10_000))
def test_spend_never_falls_and_never_outruns_the_burn(charges, now_s, later_s):
    before, after = spent_cents(charges, now_s), spent_cents(charges, now_s + later_s)
    burn = burn_cents_per_hour(charges)
    assert before is not None and after is not None and burn is not None
    assert before <= after
    # At most one started minute and one rounded cent for each machine beyond the exact cost.
    assert after - before <= burn * later_s / 3600 + burn / 60 + len(charges) + 1e-6


@given(charges, st.integers(0, 50_000), st.floats(90_000, 100_000))
def test_seconds_left_is_the_last_second_that_fits(charges, cap, now_s):
    left_s = seconds_left(Caps(max_total_cents=cap), charges, now_s)
    if not any(charge.ended_s is None for charge in charges):
        assert left_s is None
        return
    assert left_s is not None
    spent = spent_cents(charges, now_s + left_s)
    assert spent is not None
    if left_s > 0:
        assert spent <= cap
        one_minute_on = spent_cents(charges, now_s + left_s + 61)
        assert one_minute_on is not None and one_minute_on > cap
    else:
        soon = spent_cents(charges, now_s + 61)
        assert soon is not None and soon > cap


def test_an_unknown_price_is_for_the_caller_to_guess():
    with pytest.raises(ValueError, match="unknown"):
        seconds_left(Caps(max_total_cents=100), [Charge(None, 0.0)], 0.0)
    assert seconds_left(Caps(), [Charge(None, 0.0)], 0.0) is None
