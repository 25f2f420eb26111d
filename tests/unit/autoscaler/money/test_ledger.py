import pytest

from autoscaler.domain import Charge, Instance, InstanceType, Offering, Status
from autoscaler.lambda_cloud.tags import CREATED
from autoscaler.money.ledger import Ledger
from autoscaler.state import State

PLACE = Offering("gpu_1x_a10", "us-west-1")


def machine(instance_id: str, status: Status = Status.ACTIVE, created: str = "950") -> Instance:
    type_ = InstanceType("gpu_1x_a10", 129, 30, 200, 1)
    return Instance(instance_id, status, "us-west-1", type_, tags={CREATED: created})


@pytest.fixture
def ledger(tmp_path):
    return Ledger(State(tmp_path / "state.db", durable=False), "a1")


def test_the_first_start_and_the_first_end_count(ledger):
    ledger.start("demo", "i1", PLACE, None, 100.0)
    ledger.start("demo", "i1", PLACE, 129, 200.0)
    ledger.start("demo", "i1", PLACE, 999, 300.0)
    ledger.end(["i1"], 400.0)
    ledger.end(["i1"], 500.0)
    ledger.end(["never-heard-of"], 500.0)
    assert ledger.charges("demo") == [Charge(129, 100.0, 400.0)]


def test_machines_launched_elsewhere_are_taken_over_from_the_list(ledger):
    ledger.observe("demo", [machine("head"), machine("gone", Status.TERMINATED)], 1000.0)
    assert ledger.charges("demo") == [Charge(129, 950.0)]
    ledger.observe("demo", [machine("odd", created="nonsense")], 1000.0)
    assert ledger.charges("demo")[-1] == Charge(129, 1000.0)


def test_a_listed_end_ends_the_charge_and_a_missing_machine_does_not(ledger):
    ledger.observe("demo", [machine("a"), machine("b")], 1000.0)
    ledger.observe("demo", [machine("a", Status.TERMINATING)], 1060.0)
    assert ledger.running_ids("demo") == ["b"]
    assert Charge(129, 950.0, 1060.0) in ledger.charges("demo")


def test_a_machine_that_is_seen_at_work_again_has_not_ended(ledger):
    ledger.observe("demo", [machine("a"), machine("b")], 1000.0)
    ledger.end(["a", "b"], 1000.0)
    ledger.observe("demo", [machine("a")], 1030.0)
    assert ledger.running_ids("demo") == [], "lists lag"
    ledger.observe("demo", [machine("a"), machine("b", Status.TERMINATING)], 1090.0)
    assert ledger.running_ids("demo") == ["a"]
    assert ledger.charges("demo") == [Charge(129, 950.0), Charge(129, 950.0, 1000.0)]
    ledger.observe("demo", [machine("a", Status.TERMINATED)], 2000.0)
    assert ledger.charges("demo")[0] == Charge(129, 950.0, 2000.0)


def test_a_closed_run_starts_the_next_at_zero(ledger):
    ledger.start("demo", "i1", PLACE, 129, 100.0)
    ledger.start("other", "i2", PLACE, 129, 100.0)
    ledger.end(["i1"], 400.0)
    ledger.close_run("demo")
    assert ledger.charges("demo") == []
    assert len(ledger.charges("other")) == 1
