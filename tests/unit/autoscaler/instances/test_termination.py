import pytest

from autoscaler.errors import AuthError, ConflictError, UnavailableError
from autoscaler.events import EventLog
from autoscaler.instances.terminator import BATCH, Terminator
from autoscaler.money.ledger import Ledger
from autoscaler.simulator import FailNext, Outage, RevokeKey
from autoscaler.state import State
from tests.unit.autoscaler.lambda_rig import (
    Host,
    NoRateLimit,
    Scripted,
    error_body,
    instance_json,
    scripted,
    simulation,
)

GONE = Scripted(404, error_body("global/object-does-not-exist"))
UNKNOWN = Scripted(400, error_body("global/unknown"))


def terminator(wired, tmp_path):
    assert isinstance(wired.rate_limit, NoRateLimit)
    ledger = Ledger(State(tmp_path / "state.db", durable=False), "a1")
    return Terminator(
        wired.client, ledger, EventLog(tmp_path / "e.jsonl", lambda: 0.0), lambda: 0.0
    )


def ending(*ids):
    rows = [instance_json(i, status="terminating") for i in ids]
    return Scripted(body={"data": {"terminated_instances": rows}})


def one(status):
    return Scripted(body={"data": instance_json("a", status=status)})


def test_nothing_to_end_sends_nothing(tmp_path):
    wired = scripted()
    ended = terminator(wired, tmp_path).terminate([], "why")
    assert not ended.gone and not ended.failed


def test_what_is_gone_is_gone(tmp_path):
    ended = terminator(scripted(GONE), tmp_path).terminate(["a"], "why")
    assert ended.gone == {"a"} and not ended.failed


def test_one_dead_id_does_not_save_the_others(tmp_path):
    # Four ids: the whole fails, then each half, and the bad half again by one.
    wired = scripted(GONE, ending("a", "b"), GONE, GONE, ending("d"))
    ended = terminator(wired, tmp_path).terminate(["a", "b", "c", "d"], "why")
    assert ended.gone == {"a", "b", "c", "d"} and not ended.failed
    sent = [body["instance_ids"] for body in wired.adapter.bodies()]
    assert sent == [["a", "b", "c", "d"], ["a", "b"], ["c", "d"], ["c"], ["d"]]


@pytest.mark.parametrize("status", ["terminating", "terminated", "preempted"])
def test_a_second_termination_is_told_by_the_instance_itself(tmp_path, status):
    ended = terminator(scripted(UNKNOWN, one(status)), tmp_path).terminate(["a"], "why")
    assert ended.gone == {"a"}


def test_an_instance_that_stays_is_a_failure(tmp_path):
    ended = terminator(scripted(UNKNOWN, one("active")), tmp_path).terminate(["a"], "why")
    assert isinstance(ended.failed["a"], ConflictError)
    # Also when Lambda said yes: an answer that shows it active is looked after.
    answer = Scripted(body={"data": {"terminated_instances": [instance_json("a")]}})
    ended = terminator(scripted(answer, one("active")), tmp_path).terminate(["a"], "why")
    assert not ended.gone and "still active" in str(ended.failed["a"])
    # And when it leaves one out.
    ended = terminator(scripted(ending("b"), one("terminating")), tmp_path).terminate(
        ["b", "a"], "w"
    )
    assert ended.gone == {"a", "b"}


def test_many_go_in_batches(tmp_path):
    ids = [f"i{number}" for number in range(BATCH + 1)]
    wired = scripted(ending(*ids[:BATCH]), ending(ids[BATCH]))
    assert terminator(wired, tmp_path).terminate(ids, "why").gone == set(ids)
    assert [len(body["instance_ids"]) for body in wired.adapter.bodies()] == [BATCH, 1]


def test_an_api_that_is_away_fails_all_soon_and_raises_nothing(tmp_path):
    sim = simulation()
    host = Host(sim, tmp_path)
    sim.add_fault(Outage(failure=503))
    ended = host.terminator.terminate([f"i{number}" for number in range(BATCH * 4)], "why")
    assert len(ended.failed) == BATCH * 4 and not ended.gone
    assert all(isinstance(error, UnavailableError) for error in ended.failed.values())
    assert sim.invariants.report()["requests"] == 4


def test_a_revoked_key_fails_all_and_says_so(tmp_path):
    sim = simulation()
    host = Host(sim, tmp_path)
    sim.add_fault(RevokeKey())
    ended = host.terminator.terminate(["a", "b"], "why")
    assert isinstance(ended.failed["a"], AuthError)
    assert len(host.told("terminate-failed")) == 2


@pytest.mark.parametrize("failure", [504, "reset", "timeout"])
def test_an_answer_that_is_lost_is_asked_for_again(tmp_path, failure):
    sim = simulation(terminate_again="unknown-error")
    host = Host(sim, tmp_path)
    launched = host.acquire()
    sim.add_fault(FailNext("terminate", failure, committed=True))
    ended = host.terminator.terminate([launched.instance_id], "why")
    assert ended.gone == {launched.instance_id}
    assert host.ledger.running_ids("demo") == []
    assert host.client.get_instance(launched.instance_id).status.is_terminating_or_gone
