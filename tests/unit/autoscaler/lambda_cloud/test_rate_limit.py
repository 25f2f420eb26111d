import multiprocessing
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoscaler.domain import Lane
from autoscaler.errors import UnavailableError
from autoscaler.lambda_cloud.rate_limit import (
    LAUNCH_INTERVAL_S,
    MAX_BACK_OFF_S,
    REQUEST_INTERVAL_S,
    ROUND_S,
    TURN_S,
    SharedRateLimit,
    Turn,
)
from autoscaler.state import State


class Time:
    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds


def make(path: Path, time_: Time, account: str = "a", turn: Turn | None = None) -> SharedRateLimit:
    return SharedRateLimit(
        State(path, durable=False),
        account,
        turn=turn,
        clock=time_.clock,
        sleep=time_.sleep,
        jitter=lambda: 0.0,
    )


@pytest.fixture
def time_():
    return Time()


@pytest.fixture
def rate_limit(tmp_path, time_):
    return make(tmp_path / "state.db", time_)


steps = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(Lane), st.floats(0, 5)), min_size=1, max_size=25
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps, st.sampled_from([None, *Turn]))
def test_the_account_never_gets_more_than_its_rate(tmp_path_factory, steps, turn):
    path = tmp_path_factory.mktemp("pace") / "state.db"
    time_ = Time()
    rate_limits = [make(path, time_, turn=turn) for _ in range(3)]
    sent: list[tuple[float, Lane]] = []
    for who, lane, pause_s in steps:
        time_.now_s += pause_s
        sent.append((rate_limits[who].wait(lane), lane))
    all_s = [at for at, _ in sent]
    launches_s = [at for at, lane in sent if lane is Lane.LAUNCH]
    for moments, interval_s in ((all_s, REQUEST_INTERVAL_S), (launches_s, LAUNCH_INTERVAL_S)):
        gaps = [b - a for a, b in zip(moments, moments[1:], strict=False)]
        assert all(gap >= interval_s - 1e-6 for gap in gaps)


def test_a_launch_that_waits_blocks_no_list(rate_limit, time_):
    rate_limit.wait(Lane.LAUNCH)
    started_s = time_.now_s
    with pytest.raises(UnavailableError):
        rate_limit.wait(Lane.LAUNCH, deadline_s=started_s + 5)
    assert rate_limit.wait(Lane.GENERAL) - started_s == pytest.approx(1.0)


def test_a_deadline_that_cannot_be_met_fails_at_once_and_proves_it(rate_limit, time_):
    rate_limit.wait(Lane.LAUNCH)
    before_s = time_.now_s
    with pytest.raises(UnavailableError, match="12 s to wait") as caught:
        rate_limit.wait(Lane.LAUNCH, deadline_s=before_s + 11)
    assert caught.value.not_executed and time_.now_s == before_s
    assert rate_limit.wait(Lane.LAUNCH, deadline_s=before_s + 13) == pytest.approx(before_s + 12)


def test_a_waiting_termination_goes_before_what_else_waits(tmp_path, time_):
    rate_limit, other = (make(tmp_path / "state.db", time_) for _ in range(2))
    rate_limit.wait(Lane.GENERAL)
    start_s = time_.now_s
    # The termination asks and starts to wait; a list asks right after it.
    with pytest.raises(UnavailableError):
        rate_limit.wait(Lane.TERMINATE, deadline_s=start_s)
    with pytest.raises(UnavailableError):
        other.wait(Lane.GENERAL, deadline_s=start_s + 1.5)
    assert rate_limit.wait(Lane.TERMINATE) == pytest.approx(start_s + 1)
    assert other.wait(Lane.GENERAL) == pytest.approx(start_s + 2)


def test_a_terminator_that_dies_waiting_holds_nobody_for_long(tmp_path, time_):
    rate_limit = make(tmp_path / "state.db", time_)
    rate_limit.wait(Lane.GENERAL)
    start_s = time_.now_s
    with pytest.raises(UnavailableError):
        rate_limit.wait(Lane.TERMINATE, deadline_s=start_s)
    assert rate_limit.wait(Lane.GENERAL) == pytest.approx(start_s + 2)


@pytest.mark.parametrize(
    ("lane", "delay_s", "pause_s"),
    [
        (Lane.GENERAL, 5.0, 5.0),
        (Lane.GENERAL, None, 2.0),
        (Lane.LAUNCH, None, 12.0),
        (Lane.GENERAL, 9999.0, MAX_BACK_OFF_S),
    ],
)
def test_a_429_makes_everyone_wait(tmp_path, time_, lane, delay_s, pause_s):
    rate_limit, other = (make(tmp_path / "state.db", time_) for _ in range(2))
    start_s = time_.now_s
    rate_limit.back_off(lane, delay_s)
    assert other.wait(lane) == pytest.approx(start_s + pause_s)


def test_a_429_of_a_launch_stops_no_list(rate_limit, time_):
    start_s = time_.now_s
    rate_limit.back_off(Lane.LAUNCH, 30.0)
    assert rate_limit.wait(Lane.GENERAL) == start_s


def test_a_clock_that_is_set_back_stops_nobody(rate_limit, time_):
    rate_limit.wait(Lane.LAUNCH)
    time_.now_s -= 1_000_000
    start_s = time_.now_s
    assert rate_limit.wait(Lane.LAUNCH) == start_s


def test_accounts_do_not_share(tmp_path, time_):
    one, two = (make(tmp_path / "state.db", time_, account) for account in "ab")
    assert one.wait(Lane.LAUNCH) == two.wait(Lane.LAUNCH)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps)
def test_laptop_and_head_are_never_too_soon_after_each_other(tmp_path_factory, steps):
    """They share nothing but the clock; a clock that is 40 ms ahead does not matter."""
    folder, time_ = tmp_path_factory.mktemp("pace"), Time()
    laptop = make(folder / "laptop.db", time_, turn=Turn.LAPTOP)
    head = make(folder / "head.db", time_, turn=Turn.HEAD)
    head._clock = lambda: time_.now_s + 0.04
    sent = []
    for who, _, pause_s in steps:
        time_.now_s += pause_s
        (laptop if who == 0 else head).wait(Lane.GENERAL)
        sent.append(time_.now_s)
    gaps = [b - a for a, b in zip(sent, sent[1:], strict=False)]
    assert all(gap >= REQUEST_INTERVAL_S for gap in gaps)


def test_a_turn_that_is_missed_comes_again(tmp_path, time_):
    time_.now_s = 1_000 * ROUND_S + 2 * TURN_S
    rate_limit = make(tmp_path / "state.db", time_, turn=Turn.LAPTOP)
    assert rate_limit.wait(Lane.GENERAL) == pytest.approx(1_001 * ROUND_S)
    assert rate_limit.wait(Lane.LAUNCH) == pytest.approx(1_002 * ROUND_S)
    assert rate_limit.wait(Lane.LAUNCH) == pytest.approx(1_007 * ROUND_S)


def _send(path: str, speed: float, count: int, out: multiprocessing.SimpleQueue) -> None:
    rate_limit = SharedRateLimit(
        State(Path(path), durable=False),
        "a",
        clock=lambda: time.monotonic() * speed,
        sleep=lambda seconds: time.sleep(seconds / speed),
    )
    out.put([rate_limit.wait(Lane.GENERAL) for _ in range(count)])


def test_processes_share_one_rate(tmp_path):
    """Real processes on the machine's own clock, which runs 40 times as fast for them."""
    context = multiprocessing.get_context("fork")
    out = context.SimpleQueue()
    path = str(tmp_path / "state.db")
    processes = [context.Process(target=_send, args=(path, 40.0, 8, out)) for _ in range(3)]
    for process in processes:
        process.start()
    granted = sorted(at for _ in processes for at in out.get())
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert len(granted) == 24
    gaps = [b - a for a, b in zip(granted, granted[1:], strict=False)]
    assert min(gaps) >= REQUEST_INTERVAL_S - 1e-6
