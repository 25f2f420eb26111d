from hypothesis import given
from hypothesis import strategies as st

from autoscaler.domain import Offering
from autoscaler.instances.placement import (
    ANYWHERE,
    BACK_OFF,
    FORGET_S,
    MIN_REOPEN_S,
    Closure,
    Reason,
    close,
    lend_probe,
    plan,
    rank_regions,
    reopens_s,
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
closures = st.lists(
    st.builds(
        lambda offering, reason, at, advertised: close(
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
) -> Closure:
    closure = close(None, offering, Reason.STOCKOUT, at, advertised=advertised)
    for _ in range(times - 1):
        closure = close(
            closure, offering, Reason.STOCKOUT, closure.next_try_s, advertised=advertised
        )
    return closure


def test_order_is_by_type_then_region():
    assert plan([H100, A100], [EAST, WEST], None, [], 0.0).order == (
        Offering(H100, EAST),
        Offering(H100, WEST),
        Offering(A100, EAST),
        Offering(A100, WEST),
    )


def test_advertised_places_go_first():
    found = plan([H100, A100], [EAST, WEST], {Offering(A100, WEST)}, [], 0.0)
    assert found.order[0] == Offering(A100, WEST)
    assert found.order[1] == Offering(H100, EAST)


def test_a_refusal_closes_a_place_for_a_doubling_bounded_while():
    pauses = []
    for strikes in range(1, 8):
        closure = stockout(Offering(H100, EAST), strikes)
        pauses.append(closure.next_try_s - closure.closed_s)
    assert pauses == [30, 60, 60, 60, 60, 60, 60]
    assert stockout(Offering(H100, EAST), 3000).strikes == 3000


def test_an_old_series_is_forgotten():
    first = stockout(Offering(H100, EAST), 4)
    late = first.next_try_s + FORGET_S
    again = close(first, Offering(H100, EAST), Reason.STOCKOUT, late, advertised=True)
    assert again.strikes == 1


def test_a_closed_place_says_why_and_when():
    found = plan([H100], [EAST], None, [stockout(Offering(H100, EAST))], 10.0)
    assert found.order == () and found.next_try_s == 30.0
    assert found.refusals[0].reason is Reason.STOCKOUT
    assert plan([H100], [EAST], None, [stockout(Offering(H100, EAST))], 30.0).order


def test_a_newly_advertised_place_reopens_early_but_not_at_once():
    closed = stockout(Offering(H100, EAST), 6)
    advertised = {Offering(H100, EAST)}
    early_s = closed.closed_s + MIN_REOPEN_S
    assert plan([H100], [EAST], advertised, [closed], early_s).order
    assert not plan([H100], [EAST], advertised, [closed], early_s - 1).order
    assert not plan([H100], [EAST], set(), [closed], early_s).order


def test_a_place_refused_while_advertised_waits_its_time():
    closed = stockout(Offering(H100, EAST), 6, advertised=True)
    assert not plan([H100], [EAST], {Offering(H100, EAST)}, [closed], closed.next_try_s - 1).order


def test_a_suspicion_does_not_yield_to_advertising():
    closed = close(None, Offering(H100, EAST), Reason.SUSPECT, 0.0, advertised=False)
    assert not plan([H100], [EAST], {Offering(H100, EAST)}, [closed], 599.0).order
    assert plan([H100], [EAST], {Offering(H100, EAST)}, [closed], 600.0).order


def test_a_lent_probe_keeps_the_others_away():
    closed = lend_probe(stockout(Offering(H100, EAST)), 30.0)
    lease_s = BACK_OFF[Reason.STOCKOUT].lease_s
    assert not plan([H100], [EAST], None, [closed], 31.0).order
    assert plan([H100], [EAST], None, [closed], 30.0 + lease_s).order


def test_a_closure_of_everything_covers_every_place():
    everywhere = close(None, Offering(ANYWHERE, ANYWHERE), Reason.QUOTA, 0.0, advertised=False)
    found = plan([H100, A100], [EAST, WEST], {Offering(A100, WEST)}, [everywhere], 1.0)
    assert found.order == () and len(found.refusals) == 4


@given(types, regions, st.none() | st.frozensets(offerings), closures, moments)
def test_every_place_is_either_tried_or_explained(types, regions, advertised, closures, now_s):
    found = plan(types, regions, advertised, closures, now_s)
    refused = [refusal.offering for refusal in found.refusals]
    assert len(set(found.order)) == len(found.order)
    assert sorted([*found.order, *refused]) == sorted(
        Offering(t, r) for t in types for r in regions
    )
    for refusal in found.refusals:
        assert refusal.next_try_s > now_s
    for offering in found.order:
        shown = advertised is not None and offering in advertised
        covering = [c for c in closures if c.covers(offering)]
        assert all(reopens_s(c, advertised=shown) <= now_s for c in covering)
    if advertised is not None:
        shown = [offering in advertised for offering in found.order]
        assert shown == sorted(shown, reverse=True)
    assert (found.next_try_s is None) == (bool(found.order) or not refused)


@given(types, regions, st.none() | st.frozensets(offerings), closures, moments)
def test_waiting_until_the_next_try_opens_a_place(types, regions, advertised, closures, now_s):
    found = plan(types, regions, advertised, closures, now_s)
    if found.next_try_s is not None:
        assert plan(types, regions, advertised, closures, found.next_try_s).order


@given(st.lists(st.floats(0, 5000), max_size=40), offerings, st.sampled_from(Reason), st.booleans())
def test_pauses_stay_in_bounds_whatever_the_history(gaps, offering, reason, advertised):
    closure, now_s = None, 0.0
    for gap in gaps:
        now_s += gap
        closure = close(closure, offering, reason, now_s, advertised=advertised)
        pause_s = closure.next_try_s - now_s
        assert BACK_OFF[reason].first_s - 1e-6 <= pause_s <= BACK_OFF[reason].most_s + 1e-6


def test_regions_where_head_and_workers_can_be_come_first():
    open_places = {
        Offering("cpu_4x_general", EAST),
        Offering("cpu_4x_general", WEST),
        Offering(H100, WEST),
        Offering(H100, "me-west-1"),
        Offering(A100, "me-west-1"),
    }
    ranked = rank_regions(
        ["cpu_4x_general", "gpu_1x_a10"],
        [[H100], [A100]],
        [EAST, "me-west-1", WEST],
        open_places.__contains__,
    )
    assert [score.region for score in ranked] == [WEST, EAST, "me-west-1"]
    assert (ranked[0].worker_groups_advertised, ranked[0].worker_groups) == (1, 2)


def test_equal_regions_keep_their_order():
    ranked = rank_regions(["x"], [], [WEST, EAST, WEST], lambda offering: False)
    assert [score.region for score in ranked] == [WEST, EAST]
