import pytest

from autoscaler.domain import Charge, Offering
from autoscaler.errors import (
    AmbiguousLaunchError,
    AuthError,
    BudgetError,
    CapacityError,
    ConfigError,
    QuotaError,
    UnavailableError,
)
from autoscaler.instances.journal import Outcome
from autoscaler.instances.launcher import SETTLE_S
from autoscaler.lambda_cloud import tags
from autoscaler.money.budget import Allow, Deny
from autoscaler.simulator import FailNext, ListLag, RevokeKey, Stockout
from tests.unit.autoscaler.lambda_rig import REGION, Host, simulation, worker_spec

OFFERING = Offering("gpu_1x_a10", REGION)


@pytest.fixture
def sim():
    return simulation()


@pytest.fixture
def host(sim, tmp_path):
    return Host(sim, tmp_path)


def launch(
    host, *, within_s=120.0, offering=OFFERING, guard=lambda charges: Allow(0, 0), spec=None
):
    return host.launcher.launch(
        spec or worker_spec(), offering, 129, guard, host.clock() + within_s
    )


def outcomes(host):
    found = host.journal._select("cluster = ?", ("demo",))
    return [intent.outcome for intent in found]


def test_a_launch_goes_out_with_its_tags_and_is_adopted(host):
    launched = launch(host)
    instance = host.client.get_instance(launched.instance_id)
    seen = tags.node_tags(instance, {})
    assert seen is not None and seen[tags.CLUSTER] == "demo"
    assert tags.nonce_of(instance) == launched.nonce
    assert tags.created_s(instance) == int(launched.created_s)
    assert outcomes(host) == [Outcome.ADOPTED]
    assert host.ledger.charges("demo") == [Charge(129, launched.created_s)]
    assert host.told("launched")[0]["instance"] == launched.instance_id


def test_the_intent_is_on_disk_before_the_request(sim, host):
    seen: list[list[Outcome]] = []
    handle = sim.api.handle

    def watch(request):
        if request.path.endswith("/launch"):
            seen.append(outcomes(host))
        return handle(request)

    sim.api.handle = watch
    launch(host)
    assert seen == [[Outcome.OPEN]]


def test_a_denied_launch_sends_nothing(sim, host):
    with pytest.raises(BudgetError, match="gpu_1x_a10 in us-west-1.*too dear"):
        launch(host, guard=lambda charges: Deny("too dear"))
    assert sim.invariants.report()["requests"] == 0 and outcomes(host) == []


def test_a_launch_that_lambda_would_refuse_sends_nothing(sim, host):
    bad = worker_spec()
    bad = type(bad)(bad.cluster, {**bad.ray_tags, "Bad Key": "x"}, bad.ssh_key_name)
    with pytest.raises(ConfigError, match="Bad Key"):
        launch(host, spec=bad)
    assert sim.invariants.report()["requests"] == 0 and outcomes(host) == []


@pytest.mark.parametrize(
    ("fault", "cls"),
    [
        (Stockout(), CapacityError),
        (RevokeKey(), AuthError),
        (FailNext(failure=429), UnavailableError),
        (FailNext(failure=400, code="global/quota-exceeded"), QuotaError),
        (FailNext(failure=404, code="global/object-does-not-exist"), ConfigError),
    ],
)
def test_a_clear_refusal_is_settled_at_once(sim, host, fault, cls):
    sim.add_fault(fault)
    started_s = host.clock()
    with pytest.raises(cls):
        launch(host)
    assert host.clock() == started_s and outcomes(host) == [Outcome.REFUSED]
    assert host.journal.commitments("demo") == []


UNCLEAR = [
    {"failure": 504},
    {"failure": 500, "body": "html"},
    {"failure": 409},
    {"failure": 400, "code": "provider/internal-unavailable"},
    {"failure": 502, "body": "truncated"},
    {"failure": "reset"},
    {"failure": "timeout"},
]


@pytest.mark.parametrize("fault", UNCLEAR)
def test_an_unclear_launch_that_worked_is_found_and_adopted(sim, host, fault):
    sim.add_fault(FailNext(committed=True, **fault))
    launched = launch(host)
    report = sim.invariants.report()
    assert report["requests_by_endpoint"]["launch"] == 1
    assert report["instances"] == 1
    assert host.client.get_instance(launched.instance_id)
    assert outcomes(host) == [Outcome.ADOPTED]


@pytest.mark.parametrize("fault", UNCLEAR)
def test_an_unclear_launch_that_did_nothing_is_given_up_in_time(sim, host, fault):
    sim.add_fault(FailNext(**fault))
    started_s = host.clock()
    with pytest.raises(AmbiguousLaunchError, match="launch outcome unknown"):
        launch(host)
    read_timeout_s = 30 if fault["failure"] == "timeout" else 0
    assert SETTLE_S <= host.clock() - started_s - read_timeout_s <= SETTLE_S + 2
    assert sim.invariants.report()["requests_by_endpoint"]["launch"] == 1
    assert outcomes(host) == [Outcome.GIVEN_UP]
    # It may still arrive, and so it still counts.
    assert len(host.journal.commitments("demo")) == 1


def test_an_unclear_launch_is_found_behind_a_lagging_list(sim, host):
    sim.add_fault(ListLag(30.0))
    sim.add_fault(FailNext(failure=504, committed=True, commit_after_s=20.0))
    launch(host)
    assert outcomes(host) == [Outcome.ADOPTED]


def test_the_deadline_bounds_the_search(sim, host):
    sim.add_fault(FailNext(failure=504))
    started_s = host.clock()
    with pytest.raises(AmbiguousLaunchError):
        launch(host, within_s=20.0)
    assert host.clock() - started_s <= 22.0


def test_an_outage_during_the_search_is_not_an_answer(sim, host):
    sim.add_fault(FailNext(failure=504, committed=True))
    sim.add_fault(FailNext("list", 503, n=6))
    launch(host)
    assert outcomes(host) == [Outcome.ADOPTED]


def test_a_launch_that_is_given_up_while_in_flight_is_undone(sim, host):
    handle = sim.api.handle

    def given_up_meanwhile(request):
        answer = handle(request)
        if request.path.endswith("/launch"):
            nonce = host.journal.nonces("demo")[-1]
            assert host.journal.settle(nonce, Outcome.GIVEN_UP, host.clock())
        return answer

    sim.api.handle = given_up_meanwhile
    with pytest.raises(AmbiguousLaunchError, match="given up"):
        launch(host)
    assert outcomes(host) == [Outcome.COLLECTED]
    assert all(i.status.is_terminating_or_gone for i in host.client.list_instances())
