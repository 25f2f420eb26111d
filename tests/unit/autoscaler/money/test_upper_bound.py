"""What a head that was lost may have spent: never less than it can have been."""

from hypothesis import given
from hypothesis import strategies as st

from autoscaler.domain import Charge
from autoscaler.money.budget import UnreportedInterval, spent_cents, upper_bound


def test_the_tighter_of_both_caps_bounds_it():
    hour = (0.0, 3600.0)
    # One started minute more than the hour; less what is known to have run in it.
    for max_cents in (None, 900):
        by_rate = upper_bound(UnreportedInterval(*hour, 500, max_cents), [Charge(20, *hour)])
        assert spent_cents([by_rate], 3600.0) == 509 - 20
    by_total = upper_bound(UnreportedInterval(*hour, 500, 300), [Charge(20, *hour)])
    assert spent_cents([by_total], 3600.0) == 280
    assert upper_bound(UnreportedInterval(*hour, None, None), []).price_cents_per_hour is None


def test_what_is_known_of_later_times_leaves_no_less():
    """Workers that outlive their head bill on, whatever its cap was."""
    orphan = Charge(300, 0.0, 7200.0)
    lump = upper_bound(UnreportedInterval(0.0, 3600.0, None, 500), [orphan])
    assert spent_cents([lump], 7200.0) == 200


seconds = st.floats(0, 5000, allow_nan=False)
machines = st.builds(
    lambda price, start, span: Charge(price, start, start + span),
    st.integers(1, 900),
    seconds,
    seconds,
)


@given(st.lists(machines, max_size=3), machines, seconds, st.booleans(), st.booleans())
def test_it_covers_whatever_the_caps_have_allowed(known, hidden, slack_s, by_hour, by_total):
    assert hidden.ended_s is not None and hidden.price_cents_per_hour is not None
    until_s = hidden.ended_s + slack_s
    before = [c for c in known if c.started_s < until_s]
    clipped = [
        Charge(c.price_cents_per_hour, c.started_s, min(c.ended_s, until_s))
        for c in before
        if c.ended_s is not None
    ]
    burn = sum(c.price_cents_per_hour or 0 for c in known)
    spent_then = spent_cents([*clipped, hidden], until_s)
    lump = upper_bound(
        UnreportedInterval(
            max(0.0, hidden.started_s - slack_s),
            until_s,
            hidden.price_cents_per_hour + burn if by_hour else None,
            spent_then if by_total else None,
        ),
        known,
    )
    counted, true = spent_cents([*known, lump], 1e6), spent_cents([*known, hidden], 1e6)
    assert true is not None and (counted is None or counted >= true)
    assert (counted is None) == (not by_hour and not by_total)
