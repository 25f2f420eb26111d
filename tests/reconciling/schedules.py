"""What may happen to a cluster, drawn at random; and what must hold whatever happened."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from autoscaler.simulator import (
    FailNext,
    InstanceFault,
    ListLag,
    Omit,
    Outage,
    RevokeKey,
    StaleList,
    Stockout,
)
from tests import provider_rig as rig
from tests.reconciling.head import MakeMonitor
from tests.reconciling.world import World

SPAN_S = 240.0
TICK_S = 12.0
BOOTS = {"cpu": (10.0, 30.0), "single": (20.0, 60.0), "multi": (60.0, 100.0)}
"""Short, so that much happens in few rounds."""

Event = Callable[[World], None]


@dataclass(frozen=True)
class Happening:
    """`at_s` from the start of the cluster. `text` is what a failing schedule is printed as."""

    at_s: float
    text: str
    event: Event

    def __repr__(self) -> str:
        return f"{self.at_s:.0f}s {self.text}"


@dataclass(frozen=True)
class Schedule:
    seed: int
    happenings: tuple[Happening, ...]
    max_price_cents_per_hour: int | None
    max_total_cents: int | None


def _demand(count: int) -> Event:
    def happen(world: World) -> None:
        if world.head:
            world.head.ray.demand = count

    return happen


def _fault(fault: Any, lasts_s: float | None = None) -> Event:
    def happen(world: World) -> None:
        number = world.simulation.add_fault(fault)
        if lasts_s is not None:
            until_s = world.now() - world.began_s + lasts_s
            world.at(until_s, lambda w: w.simulation.remove_fault(number))

    return happen


def _to_a_worker(what: Any) -> Event:
    """To the youngest worker there is."""

    def happen(world: World) -> None:
        head_id = world.head.instance_id if world.head else None
        alive = [i.id for i in world.simulation.cloud.instances.values() if i.alive]
        if workers := [id_ for id_ in alive if id_ != head_id]:
            world.simulation.add_fault(InstanceFault(what, workers[-1]))

    return happen


def _to_the_head(world: World) -> None:
    if world.head and world.head.is_alive:
        world.simulation.add_fault(InstanceFault("preempt", world.head.instance_id))


def _die(when: str) -> Event:
    def happen(world: World) -> None:
        if world.head:
            world.head.adapter.die = when

    return happen


def _restart(world: World) -> None:
    world.restart_monitor()


def _an_hour(world: World) -> None:
    """Rounds are fewer, and still as close as the budget's margin needs."""
    tick_s, world.tick_s = world.tick_s, 25.0
    world.run_for(3600.0)
    world.tick_s = tick_s


def _up_again(world: World) -> None:
    world.ray_up()


_FAILURES = st.sampled_from([504, 500, 502, 409, "reset", "timeout"])
_ENDPOINTS = st.sampled_from(["*", "list", "launch", "terminate", "get", "instance_types"])


def _named(text: str, event: Event) -> tuple[str, Event]:
    return text, event


_KINDS = [
    st.integers(0, 5).map(lambda n: _named(f"demand {n}", _demand(n))),
    st.integers(1, 5).map(lambda n: _named(f"demand {n}", _demand(n))),
    st.builds(
        lambda type_, seen, lasts: _named(
            f"stockout {type_} advertised={seen} {lasts:.0f}s",
            _fault(Stockout(type_, advertised=seen, to_s=lasts)),
        ),
        st.sampled_from(["*", rig.H100, rig.A100]),
        st.booleans(),
        st.floats(10.0, 300.0),
    ),
    st.builds(
        lambda how, committed, late, n: _named(
            f"launch {how} committed={committed} after {late}s x{n}",
            _fault(
                FailNext(
                    failure=how, committed=committed, commit_after_s=late if committed else 0.0, n=n
                )
            ),
        ),
        _FAILURES,
        st.booleans(),
        st.sampled_from([0.0, 10.0, 25.0]),
        st.integers(1, 2),
    ),
    st.builds(
        lambda endpoint, how, n: _named(
            f"{endpoint} {how} x{n}",
            _fault(FailNext(endpoint, how, n=n, code="global/rate-limited"))
            if how == 429
            else _fault(FailNext(endpoint, how, n=n)),
        ),
        _ENDPOINTS,
        st.sampled_from([429, 500, 503, "reset"]),
        st.integers(1, 4),
    ),
    st.builds(
        lambda endpoint, lasts: _named(
            f"outage {endpoint} {lasts:.0f}s", _fault(Outage(endpoint, to_s=lasts))
        ),
        _ENDPOINTS,
        st.floats(5.0, 100.0),
    ),
    st.floats(5.0, 20.0).map(lambda s: _named(f"list lag {s:.0f}s", _fault(ListLag(s), 120.0))),
    st.floats(5.0, 15.0).map(lambda s: _named(f"stale list {s:.0f}s", _fault(StaleList(s), 60.0))),
    st.integers(1, 3).map(lambda n: _named(f"omit x{n}", _fault(Omit(n=n)))),
    st.sampled_from(["preempt", "unhealthy", "shutdown"]).map(
        lambda what: _named(f"worker: {what}", _to_a_worker(what))
    ),
    st.sampled_from(["stuck_booting", "untagged"]).map(
        lambda what: _named(f"next launch: {what}", _fault(InstanceFault(what)))
    ),
    st.sampled_from(["before", "after"]).map(
        lambda when: _named(f"monitor dies {when} its next launch", _die(when))
    ),
    st.just(_named("monitor restarts", _restart)),
    st.just(_named("ray up again", _up_again)),
    st.just(_named("head lost", _to_the_head)),
    st.floats(5.0, 60.0).map(lambda s: _named(f"key refused {s:.0f}s", _fault(RevokeKey(), s))),
]


_HOUR = st.just(_named("an hour goes by", _an_hour))
"""In which money runs out."""


@st.composite
def schedules(draw: st.DrawFn, *, with_hours: bool = False) -> Schedule:
    """`with_hours` takes several times as long."""
    kinds = [*_KINDS, _HOUR, _HOUR] if with_hours else _KINDS
    count = draw(st.integers(2, 8))
    happenings = [Happening(0.0, "demand 2", _demand(2))]
    for _ in range(count):
        at_s = draw(st.floats(0.0, SPAN_S))
        text, event = draw(draw(st.sampled_from(kinds)))
        happenings.append(Happening(at_s, text, event))
    happenings.sort(key=lambda h: h.at_s)
    return Schedule(
        seed=draw(st.integers(0, 10_000)),
        happenings=tuple(happenings),
        max_price_cents_per_hour=draw(st.sampled_from([None, None, 900, 500])),
        max_total_cents=draw(st.sampled_from([None, None, 1000, 500])),
    )


def live_through(schedule: Schedule, make_monitor: MakeMonitor) -> World:
    """Up, the schedule, down; then a quarter of an hour in which nothing may run."""
    simulation = rig.account(seed=schedule.seed, boot_s=BOOTS)
    config = rig.cluster_yaml(
        max_price_cents_per_hour=schedule.max_price_cents_per_hour,
        max_total_cents=schedule.max_total_cents,
    )
    world = World(make_monitor, simulation=simulation, config=config, tick_s=TICK_S)
    with world.living():
        world.ray_up()
        for happening in schedule.happenings:
            world.at(world.now() - world.began_s + happening.at_s, happening.event)
        world.run_for(SPAN_S)
        world.ray_down()
        simulation.invariants.expect_none()
        simulation.advance(900.0)
    return world


def check(world: World, schedule: Schedule) -> None:
    report = world.report()
    assert report["alive"] == 0, "something runs on after ray down"
    assert report["leaked_instances"] == 0, "something came after ray down"
    assert report["duplicate_nonces"] == 0 and report["duplicate_names"] == 0
    assert world.reinstalls == 0, "Ray was installed over a live worker"
    assert report["launches_over_rate"] == 0
    assert report["requests_over_rate"] == 0
    cap = schedule.max_price_cents_per_hour
    assert cap is None or report["peak_burn_cents_per_hour"] <= cap
    total = schedule.max_total_cents
    if total is not None:
        minute = max(i.type.price_cents_per_hour for i in world.simulation.cloud.instances.values())
        assert report["spend_cents"] <= total + minute / 60
