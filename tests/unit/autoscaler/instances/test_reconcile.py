"""What a list of instances settles: late arrivals, processes that died, strangers' machines."""

import pytest

from autoscaler.domain import Offering
from autoscaler.errors import AmbiguousLaunchError
from autoscaler.instances.journal import Intent, Outcome
from autoscaler.instances.launcher import SETTLE_S
from autoscaler.instances.reconcile import ARRIVAL_S, IN_FLIGHT_S
from autoscaler.lambda_cloud import tags
from autoscaler.money.budget import Allow
from autoscaler.simulator import FailNext, InstanceFault
from tests.unit.autoscaler.lambda_rig import REGION, Host, simulation, worker_spec

OFFERING = Offering("gpu_1x_a10", REGION)


@pytest.fixture
def sim():
    return simulation()


@pytest.fixture
def host(sim, tmp_path):
    return Host(sim, tmp_path)


def launch(host):
    deadline_s = host.clock() + 120.0
    return host.launcher.launch(
        worker_spec(), OFFERING, 129, lambda charges: Allow(0, 0), deadline_s
    )


def reconcile(host, instances):
    return host.reconciler().reconcile(instances).collected


def outcomes(host):
    found = host.journal._select("cluster = ?", ("demo",))
    return [intent.outcome for intent in found]


def test_a_late_arrival_is_ended_and_never_adopted(sim, host):
    sim.add_fault(FailNext(failure=504, committed=True, commit_after_s=150.0))
    with pytest.raises(AmbiguousLaunchError):
        launch(host)
    assert reconcile(host, host.client.list_instances()) == ()
    sim.advance(120.0)
    (arrived,) = host.client.list_instances()
    assert tags.nonce_of(arrived) in host.journal.unwanted("demo")
    assert reconcile(host, [arrived]) == (arrived.id,)
    assert outcomes(host) == [Outcome.COLLECTED]
    assert host.client.get_instance(arrived.id).status.is_terminating_or_gone
    assert host.ledger.running_ids("demo") == []
    assert host.told("launch-collected")


def test_a_late_arrival_whose_end_fails_is_ended_the_next_time(sim, host):
    sim.add_fault(FailNext(failure=504, committed=True, commit_after_s=150.0))
    with pytest.raises(AmbiguousLaunchError):
        launch(host)
    sim.advance(120.0)
    arrived = host.client.list_instances()
    sim.add_fault(FailNext("terminate", 503, n=4))
    assert reconcile(host, arrived) == ()
    assert reconcile(host, arrived) == (arrived[0].id,)


def test_an_arrival_without_tags_is_known_by_its_name(sim, host):
    sim.add_fault(InstanceFault("untagged"))
    sim.add_fault(FailNext(failure=504, committed=True, commit_after_s=150.0))
    with pytest.raises(AmbiguousLaunchError):
        launch(host)
    sim.advance(120.0)
    arrived = host.client.list_instances()
    assert arrived[0].tags == {}
    assert reconcile(host, arrived) == (arrived[0].id,)


def test_an_intent_that_nothing_came_of_stops_counting(sim, host):
    sim.add_fault(FailNext(failure=504))
    with pytest.raises(AmbiguousLaunchError):
        launch(host)
    sim.advance(ARRIVAL_S + 1)
    reconcile(host, host.client.list_instances())
    assert outcomes(host) == [Outcome.ABSENT]
    assert host.journal.commitments("demo") == []


class Crash(BaseException):
    """What a power cut looks like from inside."""


def crash_after_answer(sim, host):
    handle = sim.api.handle

    def dying(request):
        answer = handle(request)
        if request.path.endswith("/launch"):
            raise Crash
        return answer

    sim.api.handle = dying
    with pytest.raises(Crash):
        launch(host)
    sim.api.handle = handle


def test_a_machine_of_a_process_that_died_is_adopted_by_the_next(sim, host, tmp_path):
    crash_after_answer(sim, host)
    assert outcomes(host) == [Outcome.OPEN]
    reborn = Host(sim, tmp_path)
    listed = reborn.client.list_instances()
    reconcile(reborn, listed)
    assert outcomes(reborn) == [Outcome.OPEN]  # its sender might still be waiting
    sim.advance(IN_FLIGHT_S + 1)
    assert reconcile(reborn, listed) == ()
    assert outcomes(reborn) == [Outcome.ADOPTED]
    assert reborn.ledger.running_ids("demo") == [listed[0].id]
    assert len(reborn.journal.commitments("demo")) == 1


def test_an_intent_of_a_process_that_died_before_sending_ends(sim, host, tmp_path):
    intent = Intent("f" * 16, "demo", OFFERING, 129, host.clock())
    host.journal.begin(intent, lambda charges: Allow(0, 0))
    sim.advance(IN_FLIGHT_S + SETTLE_S + 1)
    reconcile(host, [])
    assert outcomes(host) == [Outcome.GIVEN_UP]


def test_a_machine_that_another_process_adopted_first_is_left_alone(sim, host, tmp_path):
    crash_after_answer(sim, host)
    sim.advance(IN_FLIGHT_S + 1)
    listed = host.client.list_instances()
    watched = host.journal.watched

    def overtaken(cluster):
        found = watched(cluster)
        host.journal.watched = watched
        reconcile(Host(sim, tmp_path), listed)
        return found

    host.journal.watched = overtaken
    assert reconcile(host, listed) == ()
    assert outcomes(host) == [Outcome.ADOPTED]
    assert not host.client.get_instance(listed[0].id).status.is_terminating_or_gone


def test_a_strangers_machine_is_never_touched(sim, host):
    other = Host(sim, host.state.path.parent / "other")
    stranger = other.acquire(spec=worker_spec("theirs"))
    sim.advance(ARRIVAL_S * 2)
    assert reconcile(host, host.client.list_instances()) == ()
    assert not host.client.get_instance(stranger.instance_id).status.is_terminating_or_gone
    assert host.ledger.charges("demo") == []
