import pytest

from autoscaler.errors import AmbiguousLaunchError, AuthError, TeardownUnverifiedError
from autoscaler.instances.journal import Intent, Outcome
from autoscaler.instances.launcher import SETTLE_S
from autoscaler.instances.reconcile import IN_FLIGHT_S
from autoscaler.instances.teardown import LOOK_EVERY_S, QUIET_S
from autoscaler.money.budget import Allow
from autoscaler.simulator import (
    FailNext,
    InstanceFault,
    ListLag,
    Omit,
    Outage,
    RevokeKey,
    StaleList,
)
from tests.unit.autoscaler.lambda_rig import Host, simulation, worker_spec


@pytest.fixture
def sim():
    return simulation()


@pytest.fixture
def host(sim, tmp_path):
    return Host(sim, tmp_path / "laptop")


def alive(sim):
    return sim.invariants.report()["alive"]


def test_an_empty_cluster_is_verified_too(sim, host):
    done = host.teardown.terminate_all("demo")
    assert done.ended == () and QUIET_S <= done.took_s <= QUIET_S + 2 * LOOK_EVERY_S


def test_everything_ends_and_the_run_is_closed(sim, host):
    ids = {host.acquire().instance_id for _ in range(3)}
    sim.advance(600.0)
    done = host.teardown.terminate_all("demo")
    assert set(done.ended) == ids and done.late == ()
    assert alive(sim) == 0
    assert len(done.charges) == 3 and all(c.ended_s is not None for c in done.charges)
    assert host.ledger.charges("demo") == []
    assert host.told("cluster-ended")[0]["running"] == 0
    assert host.teardown.terminate_all("demo").ended == ()


def test_other_clusters_live_on(sim, host):
    other = host.acquire(spec=worker_spec("other"))
    host.acquire()
    host.teardown.terminate_all("demo")
    assert not host.client.get_instance(other.instance_id).status.is_terminating_or_gone


def test_machines_of_another_host_end_too(sim, host, tmp_path):
    head = Host(sim, tmp_path / "head")
    workers = [head.acquire().instance_id for _ in range(2)]
    done = host.teardown.terminate_all("demo")
    assert set(done.ended) == set(workers) and alive(sim) == 0
    assert [c.price_cents_per_hour for c in done.charges] == [129, 129]


def test_a_launch_of_a_dying_head_is_caught(sim, host, tmp_path):
    """The head is told to end, and sends one more launch while it goes down."""
    head = Host(sim, tmp_path / "head")
    head.acquire(spec=worker_spec(kind="head"))
    sim.add_fault(ListLag(30.0))
    sim.advance(60.0)
    terminate = host.terminator.terminate
    late: list[str] = []

    def once(ids, why):
        ended = terminate(ids, why)
        if not late:
            late.append(head.acquire().instance_id)
        return ended

    host.terminator.terminate = once
    done = host.teardown.terminate_all("demo")
    assert done.late == tuple(late)
    assert alive(sim) == 0


def test_a_late_arrival_of_an_unclear_launch_is_waited_for(sim, host):
    sim.add_fault(FailNext(failure=504, committed=True, commit_after_s=60.0))
    with pytest.raises(AmbiguousLaunchError):
        host.acquire(within_s=15.0)
    done = host.teardown.terminate_all("demo")
    assert len(done.ended) == 1 and alive(sim) == 0
    assert host.journal.commitments("demo") == []


def test_an_unclear_launch_that_never_comes_holds_the_end_for_its_time_only(sim, host):
    sim.add_fault(FailNext(failure=504))
    with pytest.raises(AmbiguousLaunchError):
        host.acquire(within_s=15.0)
    done = host.teardown.terminate_all("demo")
    assert SETTLE_S + QUIET_S <= done.took_s <= SETTLE_S + QUIET_S + 20
    assert done.ended == ()


def test_an_intent_of_a_process_that_died_is_waited_for(sim, host):
    intent = Intent("e" * 16, "demo", host.acquire().offering, 129, host.clock())
    host.journal.begin(intent, lambda charges: Allow(0, 0))
    done = host.teardown.terminate_all("demo")
    least_s = IN_FLIGHT_S + SETTLE_S
    assert least_s <= done.took_s <= least_s + QUIET_S + 20
    found = host.journal.get("e" * 16)
    assert found is not None and found.outcome is Outcome.ABSENT


def test_a_machine_that_no_list_shows_yet_is_ended_by_its_id(sim, host):
    sim.add_fault(ListLag(3600.0))
    launched = host.acquire()
    done = host.teardown.terminate_all("demo")
    assert done.ended == (launched.instance_id,) and alive(sim) == 0


def test_lists_that_leave_machines_out_end_nothing_early(sim, host, tmp_path):
    head = Host(sim, tmp_path / "head")
    head.acquire()
    sim.advance(60.0)
    sim.add_fault(Omit(n=7))
    host.teardown.terminate_all("demo")
    assert alive(sim) == 0


@pytest.mark.parametrize("what", ["unhealthy", "stuck_booting", "untagged", "preempt", "shutdown"])
def test_ailing_machines_end_too(sim, host, tmp_path, what):
    at_launch = what in ("stuck_booting", "untagged")
    if at_launch:
        sim.add_fault(InstanceFault(what))
    launched = Host(sim, tmp_path / "head").acquire()
    sim.advance(600.0)
    if not at_launch:
        sim.add_fault(InstanceFault(what, launched.instance_id))
        sim.advance(1.0)
    host.teardown.terminate_all("demo")
    assert alive(sim) == 0


def test_an_outage_is_sat_out(sim, host):
    host.acquire()
    sim.add_fault(Outage(to_s=120.0))
    host.teardown.terminate_all("demo")
    assert alive(sim) == 0


def test_stale_lists_do_not_confuse_it(sim, host):
    host.acquire()
    sim.add_fault(StaleList(20.0))
    host.teardown.terminate_all("demo")
    assert alive(sim) == 0


@pytest.mark.parametrize("again", ["ok", "unknown-error"])
@pytest.mark.parametrize("unknown", ["refuse-all", "skip"])
def test_either_way_in_which_lambda_may_take_a_second_termination(tmp_path, again, unknown):
    sim = simulation(terminate_again=again, terminate_unknown=unknown, terminated_listed_s=300.0)
    host = Host(sim, tmp_path)
    first, _ = host.acquire(), host.acquire()
    host.client.terminate([first.instance_id])
    host.teardown.terminate_all("demo")
    assert alive(sim) == 0


def test_what_cannot_be_verified_is_named(sim, host):
    launched = host.acquire()
    sim.add_fault(Outage("terminate", failure=500))
    with pytest.raises(TeardownUnverifiedError, match=launched.instance_id) as caught:
        host.teardown.terminate_all("demo", time_limit_s=300.0)
    assert caught.value.exit_code == 1 and alive(sim) == 1


def test_an_api_that_stays_away_is_not_zero(sim, host):
    sim.add_fault(Outage())
    with pytest.raises(TeardownUnverifiedError, match="list cannot be read"):
        host.teardown.terminate_all("demo", time_limit_s=100.0)


def test_without_a_list_what_is_written_down_ends_and_is_not_verified(sim, host):
    host.acquire()
    sim.add_fault(Outage("list"))
    with pytest.raises(TeardownUnverifiedError, match="list cannot be read"):
        host.teardown.terminate_all("demo", time_limit_s=100.0)
    assert alive(sim) == 0


def test_a_refused_key_is_said_at_once(sim, host):
    host.acquire()
    sim.add_fault(RevokeKey())
    started_s = host.clock()
    with pytest.raises(AuthError):
        host.teardown.terminate_all("demo")
    assert host.clock() - started_s < 5
