"""Random schedules of launches and faults, in virtual time, on one machine that also crashes."""

import itertools
import os
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoscaler.errors import AutoscalerError
from autoscaler.money.budget import Caps
from autoscaler.simulator import (
    FailNext,
    InstanceFault,
    ListLag,
    Omit,
    Outage,
    Simulation,
    StaleList,
    Stockout,
)
from tests.unit.autoscaler.lambda_rig import Host, simulation

TYPES = ("gpu_1x_h100_sxm5", "gpu_1x_a100", "gpu_1x_a10")
HOURLY_CAP_CENTS = 1000
SCHEDULES = int(os.environ.get("RAYLAMBDA_SCHEDULES", "15"))
"""More of them take longer: about half a second each."""

launch_failures = st.builds(
    lambda failure, committed, after_s, n: FailNext(
        "launch", failure, n=n, committed=committed, commit_after_s=after_s if committed else 0.0
    ),
    st.sampled_from([500, 504, 409, "reset", "timeout"]),
    st.booleans(),
    st.sampled_from([0.0, 5.0, 40.0, 200.0]),
    st.integers(1, 2),
)
faults = st.one_of(
    st.builds(FailNext, st.just("launch"), st.just(429), st.integers(1, 2)),
    st.builds(FailNext, st.just("list"), st.sampled_from([503, "reset"]), st.integers(1, 8)),
    st.builds(
        lambda failure, committed: FailNext("terminate", failure, n=2, committed=committed),
        st.sampled_from([503, "reset"]),
        st.booleans(),
    ),
    st.builds(ListLag, st.sampled_from([5.0, 30.0])),
    st.builds(Omit, st.just("*"), st.integers(1, 3)),
    st.builds(StaleList, st.just(20.0)),
    st.builds(lambda: InstanceFault("untagged")),
    st.builds(
        lambda name, advertised: Stockout(name, to_s=120.0, advertised=advertised),
        st.sampled_from([*TYPES, "*"]),
        st.booleans(),
    ),
    st.builds(lambda: Outage(to_s=60.0)),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("launch"), st.sampled_from([15.0, 60.0, 120.0])),
        st.tuples(st.just("unclear launch"), launch_failures),
        st.tuples(st.just("crash"), st.sampled_from(["before", "after"])),
        st.tuples(st.just("fault"), faults),
        st.tuples(st.just("look"), st.just(None)),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 20.0, 100.0, 400.0])),
        st.tuples(st.just("end-one"), st.integers(0, 5)),
    ),
    min_size=2,
    max_size=14,
)


class Crash(BaseException):
    """The process is gone in the middle of a launch."""


@dataclass
class Schedule:
    """One machine's processes, one after the other, on one account."""

    simulation: Simulation
    folder: Path

    def __post_init__(self) -> None:
        self._nonces = (f"{number:016x}" for number in itertools.count())
        self.host = self.start()
        self.returned: list[str] = []
        self._faults: list[int] = []

    def start(self) -> Host:
        return Host(self.simulation, self.folder, on_nonce=lambda: next(self._nonces))

    def step(self, what: str, value: object) -> None:
        match what:
            case "launch":
                self.launch(value)
            case "unclear launch":
                self.add_fault(value)
                self.launch(60.0)
            case "crash":
                self.crash(value)
            case "fault":
                self.add_fault(value)
            case "wait":
                self.simulation.advance(value)
            case "look":
                self.look()
            case "end-one":
                self.host.terminator.terminate(self.returned[value : value + 1], "test")

    def add_fault(self, fault: object) -> None:
        self._faults.append(self.simulation.add_fault(fault))

    def mend(self) -> None:
        """All faults are over; what was committed late has arrived."""
        for number in self._faults:
            self.simulation.remove_fault(number)
        self.simulation.advance(300.0)

    def launch(self, within_s: float) -> None:
        caps = Caps(max_price_cents_per_hour=HOURLY_CAP_CENTS)
        try:
            launched = self.host.acquire(*TYPES, within_s=within_s, caps=caps)
        except AutoscalerError:
            return
        self.returned.append(launched.instance_id)

    def look(self) -> None:
        try:
            listed = self.host.client.list_instances()
        except AutoscalerError:
            return
        self.host.reconciler().settle(listed)

    def crash(self, when: str) -> None:
        handle = self.simulation.api.handle

        def dying(request):
            if not request.path.endswith("/launch"):
                return handle(request)
            if when == "after":
                handle(request)
            raise Crash

        self.simulation.api.handle = dying
        try:
            self.launch(60.0)
        except Crash:
            self.host = self.start()
        finally:
            self.simulation.api.handle = handle


@settings(
    max_examples=SCHEDULES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps, st.lists(faults, max_size=3))
def test_nothing_is_launched_twice_leaked_rushed_or_overspent(
    tmp_path_factory, steps, faults_at_the_end
):
    sim = simulation()
    schedule = Schedule(sim, tmp_path_factory.mktemp("faults"))
    for what, value in steps:
        schedule.step(what, value)
    schedule.mend()
    schedule.look()
    # What nobody was told of has been ended; what a caller was given is its own and stays.
    alive = [i for i in sim.cloud.instances.values() if i.alive]
    unwanted = {nonce for nonce in schedule.host.journal.unwanted("demo")}
    assert not [i for i in alive if i.spec.name.rsplit("-", 1)[1] in unwanted]
    assert len(set(schedule.returned)) == len(schedule.returned)
    told = {event["instance"] for event in schedule.host.told("terminated")}
    assert not told & {i.id for i in alive}
    assert set(schedule.returned) <= {i.id for i in alive} | told
    for fault in faults_at_the_end:
        sim.add_fault(fault)
    schedule.host.teardown.terminate_all("demo")
    sim.invariants.expect_none()
    sim.advance(3600.0)
    report = sim.invariants.report()
    assert report["leaked_instances"] == 0
    assert report["duplicate_nonces"] == report["duplicate_names"] == 0
    assert report["requests_over_rate"] == report["launches_over_rate"] == 0
    assert report["peak_burn_cents_per_hour"] <= HOURLY_CAP_CENTS
    assert schedule.host.ledger.charges("demo") == []
