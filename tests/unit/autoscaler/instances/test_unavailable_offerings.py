import threading

import pytest

from autoscaler.domain import Offering
from autoscaler.instances.unavailable_offerings import (
    ANYWHERE,
    Reason,
    UnavailableOffering,
    UnavailableOfferings,
)
from autoscaler.state import State

HERE = Offering("gpu_1x_h100_sxm5", "us-west-1")
THERE = Offering("gpu_1x_h100_sxm5", "us-east-1")


@pytest.fixture
def offerings(tmp_path):
    return UnavailableOfferings(State(tmp_path / "state.db", durable=False), "account")


def claim(offerings, now_s, offering=HERE, advertised=False):
    return offerings.claim_probe(offering, now_s, advertised=advertised)


def fail(offerings, now_s, reason=Reason.STOCKOUT, offering=HERE):
    return offerings.mark_unavailable(offering, reason, now_s, advertised=False)


def test_an_available_offering_is_free_for_all(offerings):
    assert claim(offerings, 0.0) and claim(offerings, 0.0)
    assert offerings.all() == []


def test_after_the_back_off_one_of_many_probes(offerings):
    marked = fail(offerings, 0.0)
    assert not claim(offerings, marked.next_try_s - 1)
    won: list[bool] = []
    threads = [
        threading.Thread(target=lambda: won.append(claim(offerings, marked.next_try_s)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 5 + [True]


def test_failures_count_up_over_probes_and_restarts(offerings, tmp_path):
    marked = fail(offerings, 0.0)
    assert claim(offerings, marked.next_try_s)
    again = fail(UnavailableOfferings(State(tmp_path / "state.db"), "account"), marked.next_try_s)
    assert (again.failures, again.probe_until_s) == (2, None)
    assert offerings.all() == [again]


def test_a_released_probe_is_free_at_once(offerings):
    marked = fail(offerings, 0.0)
    assert claim(offerings, marked.next_try_s)
    offerings.release_probe(HERE)
    assert claim(offerings, marked.next_try_s)


def test_success_makes_the_offering_available_but_not_others(offerings):
    fail(offerings, 0.0)
    fail(offerings, 0.0, offering=THERE)
    offerings.mark_available(HERE)
    assert [known.offering for known in offerings.all()] == [THERE]


def test_a_machine_that_starts_is_no_proof_of_cuda(offerings):
    marked = fail(offerings, 0.0, Reason.SUSPECT)
    fail(offerings, 0.0)
    assert claim(offerings, marked.next_try_s)
    offerings.mark_available(HERE)
    assert [c.reason for c in offerings.all()] == [Reason.SUSPECT]
    # While that machine boots and is checked, nobody else goes there.
    assert not claim(offerings, marked.next_try_s + 600)
    offerings.mark_healthy(HERE)
    assert offerings.all() == [] and claim(offerings, marked.next_try_s + 600)


def test_an_account_without_quota_is_probed_by_one(offerings):
    marked = fail(offerings, 0.0, Reason.QUOTA, Offering(ANYWHERE, ANYWHERE))
    assert claim(offerings, marked.next_try_s, HERE)
    assert not claim(offerings, marked.next_try_s, THERE)
    offerings.mark_available(HERE)
    assert claim(offerings, marked.next_try_s, THERE)


def test_accounts_do_not_share(offerings, tmp_path):
    fail(offerings, 0.0)
    assert UnavailableOfferings(State(tmp_path / "state.db"), "other").all() == []


def test_a_state_file_of_an_older_version_is_read(offerings, tmp_path):
    """Its table and columns have kept their names."""
    state = State(tmp_path / "state.db", durable=False)
    with state.transaction() as connection:
        connection.execute(
            "INSERT INTO closures (account, instance_type, region, reason, strikes, closed_s, "
            "next_try_s, advertised) VALUES ('account', ?, ?, 'SUSPECT', 2, 5.0, 1205.0, 1)",
            (HERE.instance_type, HERE.region),
        )
    (known,) = offerings.all()
    assert known == UnavailableOffering(HERE, Reason.SUSPECT, 2, 5.0, 1205.0, True, None)
    assert not claim(offerings, 1204.0) and claim(offerings, 1205.0)
