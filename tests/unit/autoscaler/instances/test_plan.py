"""In which order offerings are tried, and for how long one that failed is not."""

from hypothesis import given
from hypothesis import strategies as st

from autoscaler.domain import Offering
from autoscaler.instances.acquire import plan
from autoscaler.instances.unavailable_offerings import (
    ANYWHERE,
    BACK_OFF,
    FORGET_S,
    MIN_RETRY_S,
    Reason,
    UnavailableOffering,
    after_failure,
    retry_s,
    under_probe,
)

A100, H100 = "gpu_1x_a100", "gpu_1x_h100_sxm5"
EAST, WEST = "us-east-1", "us-west-1"

types = st.lists(st.sampled_from([A100, H100, "gpu_1x_a10"]), max_size=3, unique=True)
regions = st.lists(st.sampled_from([EAST, WEST, "me-west-1"]), max_size=3, unique=True)
offerings = st.builds(
    Offering,
    st.sampled_from([A100, H100, "gpu_1x_a10"]),
    st.sampled_from([EAST, WEST, "me-west-1"]),
)
moments = st.floats(0, 10_000)
unavailable = st.lists(
    st.builds(
        lambda offering, reason, at, advertised: after_failure(
            None, offering, reason, at, advertised=advertised
        ),
        offerings | st.just(Offering(ANYWHERE, ANYWHERE)),
        st.sampled_from(Reason),
        moments,
        st.booleans(),
    ),
    max_size=6,
)


def stockout(
    offering: Offering, times: int = 1, at: float = 0.0, advertised: bool = False
) -> UnavailableOffering:
    marked = after_failure(None, offering, Reason.STOCKOUT, at, advertised=advertised)
    for _ in range(times - 1):
        marked = after_failure(
            marked, offering, Reason.STOCKOUT, marked.next_try_s, advertised=advertised
        )
    return marked


def test_order_is_by_type_then_region():
    assert plan([H100, A100], [EAST, WEST], None, [], 0.0).order == (
        Offering(H100, EAST),
        Offering(H100, WEST),
        Offering(A100, EAST),
        Offering(A100, WEST),
    )


def test_advertised_offerings_go_first():
    found = plan([H100, A100], [EAST, WEST], {Offering(A100, WEST)}, [], 0.0)
    assert found.order[0] == Offering(A100, WEST)
    assert found.order[1] == Offering(H100, EAST)


def test_the_back_off_doubles_with_each_failure_and_is_bounded():
    pauses = []
    for failures in range(1, 8):
        marked = stockout(Offering(H100, EAST), failures)
        pauses.append(marked.next_try_s - marked.failed_s)
    assert pauses == [30, 60, 60, 60, 60, 60, 60]
    assert stockout(Offering(H100, EAST), 3000).failures == 3000


def test_an_old_series_is_forgotten():
    first = stockout(Offering(H100, EAST), 4)
    late = first.next_try_s + FORGET_S
    again = after_failure(first, Offering(H100, EAST), Reason.STOCKOUT, late, advertised=True)
    assert again.failures == 1


def test_an_unavailable_offering_says_why_and_when():
    found = plan([H100], [EAST], None, [stockout(Offering(H100, EAST))], 10.0)
    assert found.order == () and found.next_try_s == 30.0
    assert found.unavailable == {Offering(H100, EAST): (30.0, Reason.STOCKOUT)}
    assert plan([H100], [EAST], None, [stockout(Offering(H100, EAST))], 30.0).order


def test_a_newly_advertised_offering_is_tried_early_but_not_at_once():
    marked = stockout(Offering(H100, EAST), 6)
    advertised = {Offering(H100, EAST)}
    early_s = marked.failed_s + MIN_RETRY_S
    assert plan([H100], [EAST], advertised, [marked], early_s).order
    assert not plan([H100], [EAST], advertised, [marked], early_s - 1).order
    assert not plan([H100], [EAST], set(), [marked], early_s).order


def test_an_offering_refused_while_advertised_waits_its_time():
    marked = stockout(Offering(H100, EAST), 6, advertised=True)
    assert not plan([H100], [EAST], {Offering(H100, EAST)}, [marked], marked.next_try_s - 1).order


def test_a_suspicion_does_not_yield_to_advertising():
    marked = after_failure(None, Offering(H100, EAST), Reason.SUSPECT, 0.0, advertised=False)
    assert not plan([H100], [EAST], {Offering(H100, EAST)}, [marked], 599.0).order
    assert plan([H100], [EAST], {Offering(H100, EAST)}, [marked], 600.0).order


def test_a_probe_keeps_the_others_away():
    marked = under_probe(stockout(Offering(H100, EAST)), 30.0)
    probe_s = BACK_OFF[Reason.STOCKOUT].probe_s
    assert not plan([H100], [EAST], None, [marked], 31.0).order
    assert plan([H100], [EAST], None, [marked], 30.0 + probe_s).order


def test_an_account_without_quota_covers_every_offering():
    everywhere = after_failure(
        None, Offering(ANYWHERE, ANYWHERE), Reason.QUOTA, 0.0, advertised=False
    )
    found = plan([H100, A100], [EAST, WEST], {Offering(A100, WEST)}, [everywhere], 1.0)
    assert found.order == () and len(found.unavailable) == 4


@given(types, regions, st.none() | st.frozensets(offerings), unavailable, moments)
def test_every_offering_is_either_tried_or_explained(
    types, regions, advertised, unavailable, now_s
):
    found = plan(types, regions, advertised, unavailable, now_s)
    refused = list(found.unavailable)
    assert len(set(found.order)) == len(found.order)
    assert sorted([*found.order, *refused]) == sorted(
        Offering(t, r) for t in types for r in regions
    )
    assert all(at_s > now_s for at_s, _ in found.unavailable.values())
    for offering in found.order:
        shown = advertised is not None and offering in advertised
        covering = [c for c in unavailable if c.covers(offering)]
        assert all(retry_s(c, advertised=shown) <= now_s for c in covering)
    if advertised is not None:
        shown = [offering in advertised for offering in found.order]
        assert shown == sorted(shown, reverse=True)
    assert (found.next_try_s is None) == (bool(found.order) or not refused)


@given(types, regions, st.none() | st.frozensets(offerings), unavailable, moments)
def test_at_the_next_try_an_offering_is_available(types, regions, advertised, unavailable, now_s):
    found = plan(types, regions, advertised, unavailable, now_s)
    if found.next_try_s is not None:
        assert plan(types, regions, advertised, unavailable, found.next_try_s).order


@given(st.lists(st.floats(0, 5000), max_size=40), offerings, st.sampled_from(Reason), st.booleans())
def test_pauses_stay_in_bounds_whatever_the_history(gaps, offering, reason, advertised):
    marked, now_s = None, 0.0
    for gap in gaps:
        now_s += gap
        marked = after_failure(marked, offering, reason, now_s, advertised=advertised)
        pause_s = marked.next_try_s - now_s
        assert BACK_OFF[reason].first_s - 1e-6 <= pause_s <= BACK_OFF[reason].max_s + 1e-6
