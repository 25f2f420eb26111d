import threading

import pytest

from autoscaler.domain import Offering
from autoscaler.instances.placement import ANYWHERE, Reason
from autoscaler.instances.stockouts import Stockouts
from autoscaler.state import State

HERE = Offering("gpu_1x_h100_sxm5", "us-west-1")
THERE = Offering("gpu_1x_h100_sxm5", "us-east-1")


@pytest.fixture
def stockouts(tmp_path):
    return Stockouts(State(tmp_path / "state.db", durable=False), "account")


def claim(stockouts, now_s, offering=HERE, advertised=False):
    return stockouts.claim(offering, now_s, advertised=advertised)


def close(stockouts, now_s, reason=Reason.STOCKOUT, offering=HERE):
    return stockouts.close(offering, reason, now_s, advertised=False)


def test_an_open_place_is_free_for_all(stockouts):
    assert claim(stockouts, 0.0) and claim(stockouts, 0.0)
    assert stockouts.all() == []


def test_a_half_open_place_takes_one_of_many(stockouts):
    closure = close(stockouts, 0.0)
    assert not claim(stockouts, closure.next_try_s - 1)
    won: list[bool] = []
    threads = [
        threading.Thread(target=lambda: won.append(claim(stockouts, closure.next_try_s)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 5 + [True]


def test_refusals_count_up_over_probes_and_restarts(stockouts, tmp_path):
    closure = close(stockouts, 0.0)
    assert claim(stockouts, closure.next_try_s)
    again = close(Stockouts(State(tmp_path / "state.db"), "account"), closure.next_try_s)
    assert (again.strikes, again.probe_until_s) == (2, None)
    assert stockouts.all() == [again]


def test_a_released_probe_is_free_at_once(stockouts):
    closure = close(stockouts, 0.0)
    assert claim(stockouts, closure.next_try_s)
    stockouts.release(HERE)
    assert claim(stockouts, closure.next_try_s)


def test_success_opens_the_place_but_not_others(stockouts):
    close(stockouts, 0.0)
    close(stockouts, 0.0, offering=THERE)
    stockouts.reopen(HERE)
    assert [closure.offering for closure in stockouts.all()] == [THERE]


def test_a_machine_that_starts_is_no_proof_of_cuda(stockouts):
    closure = close(stockouts, 0.0, Reason.SUSPECT)
    close(stockouts, 0.0)
    assert claim(stockouts, closure.next_try_s)
    stockouts.reopen(HERE)
    assert [c.reason for c in stockouts.all()] == [Reason.SUSPECT]
    # While that machine boots and is checked, nobody else goes there.
    assert not claim(stockouts, closure.next_try_s + 600)
    stockouts.clear(HERE)
    assert stockouts.all() == [] and claim(stockouts, closure.next_try_s + 600)


def test_a_closure_of_everything_is_probed_by_one(stockouts):
    closure = close(stockouts, 0.0, Reason.QUOTA, Offering(ANYWHERE, ANYWHERE))
    assert claim(stockouts, closure.next_try_s, HERE)
    assert not claim(stockouts, closure.next_try_s, THERE)
    stockouts.reopen(HERE)
    assert claim(stockouts, closure.next_try_s, THERE)


def test_accounts_do_not_share(stockouts, tmp_path):
    close(stockouts, 0.0)
    assert Stockouts(State(tmp_path / "state.db"), "other").all() == []
