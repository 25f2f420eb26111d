import threading

import pytest

from autoscaler.domain import Charge, Offering
from autoscaler.instances.journal import KEEP_S, Intent, Journal, Outcome
from autoscaler.money.budget import Allow, Caps, Deny, burn_cents_per_hour, decide, spent_cents
from autoscaler.money.ledger import Ledger
from autoscaler.state import State

PLACE = Offering("gpu_1x_a10", "us-west-1")


@pytest.fixture
def state(tmp_path):
    return State(tmp_path / "state.db", durable=False)


@pytest.fixture
def journal(state):
    return Journal(state, "a1")


def allow(charges):
    return Allow(0, 0)


def begin(journal, nonce="n1", cluster="demo", price=129, guard=allow):
    return journal.begin(Intent(nonce, cluster, PLACE, price, 1000.0), guard)


def test_an_intent_is_kept_before_anything_else_happens(state, journal):
    begin(journal)
    intent = Journal(State(state.path), "a1").get("n1")
    assert intent == Intent("n1", "demo", PLACE, 129, 1000.0)


def test_a_denied_intent_leaves_no_trace(journal):
    assert begin(journal, guard=lambda charges: Deny("no")) == Deny("no")
    assert journal.get("n1") is None


@pytest.mark.parametrize(
    ("path", "last_is_taken"),
    [
        ([Outcome.ADOPTED], True),
        ([Outcome.REFUSED], True),
        ([Outcome.GIVEN_UP, Outcome.COLLECTED], True),
        ([Outcome.GIVEN_UP, Outcome.ABSENT, Outcome.COLLECTED], True),
        ([Outcome.COLLECTED], False),
        ([Outcome.ABSENT], False),
        ([Outcome.GIVEN_UP, Outcome.ADOPTED], False),
        ([Outcome.ADOPTED, Outcome.GIVEN_UP], False),
        ([Outcome.REFUSED, Outcome.ADOPTED], False),
        ([Outcome.GIVEN_UP, Outcome.COLLECTED, Outcome.COLLECTED], False),
    ],
)
def test_an_intent_moves_one_way(journal, path, last_is_taken):
    begin(journal)
    taken = [journal.settle("n1", outcome, 1001.0) for outcome in path]
    assert taken == [True] * (len(path) - 1) + [last_is_taken]


def test_of_a_sender_and_an_end_only_one_wins(journal):
    begin(journal)
    won: list[Outcome] = []

    def settle(outcome: Outcome) -> None:
        if journal.settle("n1", outcome, 1001.0):
            won.append(outcome)

    threads = [
        threading.Thread(target=settle, args=(outcome,))
        for outcome in (Outcome.ADOPTED, Outcome.GIVEN_UP) * 3
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_what_may_yet_arrive_counts_as_spending(state, journal):
    Ledger(state, "a1").start("demo", "i0", PLACE, 100, 900.0)
    Ledger(state, "a1").start("other", "i9", PLACE, 7777, 900.0)
    for nonce in ("open", "given-up", "adopted", "refused"):
        begin(journal, nonce)
    journal.settle("given-up", Outcome.GIVEN_UP, 1001.0)
    journal.settle("adopted", Outcome.ADOPTED, 1001.0)
    journal.settle("refused", Outcome.REFUSED, 1001.0)
    expected = [Charge(100, 900.0), Charge(129, 1000.0), Charge(129, 1000.0)]
    assert sorted(journal.commitments("demo"), key=str) == expected


def test_two_launches_that_each_fit_do_not_pass_together(journal):
    caps = Caps(max_price_cents_per_hour=200)

    def guard(charges):
        return decide(caps, spent_cents(charges, 1000.0), burn_cents_per_hour(charges), 129)

    decisions: list[object] = []

    def launch(number: int) -> None:
        decisions.append(begin(journal, f"n{number}", guard=guard))

    threads = [threading.Thread(target=launch, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(decision, Allow) for decision in decisions) == 1


def test_settled_intents_are_kept_a_week_and_open_ones_for_ever(journal):
    for nonce in ("open", "done"):
        begin(journal, nonce)
    journal.settle("done", Outcome.ADOPTED, 1001.0)
    for later_s, remembered in ((1000.0 + KEEP_S, True), (1002.0 + KEEP_S, False)):
        journal.begin(Intent(f"at {later_s}", "other", PLACE, 1, later_s), allow)
        assert (journal.get("done") is not None) == remembered
    assert [intent.nonce for intent in journal.unresolved("demo")] == ["open"]


def test_what_surely_made_nothing_is_not_looked_for(journal):
    for nonce in ("open", "adopted", "refused"):
        begin(journal, nonce)
    journal.settle("adopted", Outcome.ADOPTED, 1001.0)
    journal.settle("refused", Outcome.REFUSED, 1001.0)
    assert journal.nonces("demo") == ["adopted", "open"]
    assert [intent.nonce for intent in journal.watched("demo")] == ["open"]
    assert journal.unwanted("demo") == {}
