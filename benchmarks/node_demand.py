"""From a demand for four GPU nodes to the last that has joined, under faults, beside a plain one.

    python -m benchmarks.node_demand

With the mean of each step over the nodes that joined. Through Ray's real autoscaler v2 on the
simulated account, records only: seconds are the cloud's, boots and the 40 s of a setup
included. The plain provider is `plain_provider`. It keeps no pace, so that what it sends over
the account's rate is counted, not refused: under the rate its every launch would fail.
"""

import logging
import sys
from collections.abc import Callable
from statistics import mean

from autoscaler.simulator import FailNext, Omit, Outage, Stockout
from benchmarks.provider_faults import SHORT_BOOTS, SIDES, make_world, two_types
from tests import provider_rig as rig
from tests.reconciling.ray_cluster import SETUP_S
from tests.reconciling.world import TICK_S, World

NODES = 4
LIMIT_S = 900.0


def nothing(world: World) -> None:
    """No fault."""


def sold_out(world: World) -> None:
    world.simulation.add_fault(Stockout(rig.H100, advertised=True))


def late_capacity(world: World) -> None:
    world.simulation.add_fault(Stockout(advertised=True, to_s=300.0))


def unclear(world: World) -> None:
    """The next three launches are carried out and answered with 504."""
    for _ in range(3):
        world.simulation.add_fault(FailNext(failure=504, committed=True))


def away(world: World) -> None:
    world.simulation.add_fault(Outage(from_s=20.0, to_s=80.0))


def left_out(world: World) -> None:
    """One list, while the nodes are set up, leaves all of them out."""
    world.at(world.now() - world.began_s + 70.0, lambda w: w.simulation.add_fault(Omit()))


CASES: dict[str, Callable[[World], None]] = {
    "no fault": nothing,
    "H100 sold out, A100 free": sold_out,
    "nothing free for 300 s": late_capacity,
    "three launches without a clear answer": unclear,
    "API away for 60 s": away,
    "one list leaves all out": left_out,
}


def live(side: str, fault: Callable[[World], None]) -> str:
    """A row: seconds until all have joined, by step for a node that did, and what it took."""
    world = make_world(side, two_types(side), boot_s=SHORT_BOOTS)
    with world.living():
        world.ray_up()
        assert world.head is not None
        asked_s, setups_s = world.now(), dict[str, float]()
        world.head.ray.demand = NODES
        fault(world)
        while len(world.head.ray.running) < NODES and world.now() < asked_s + LIMIT_S:
            world.run_for(TICK_S)
            for instance_id, (ready_s, _) in world.head.ray.setups.items():
                setups_s[instance_id] = ready_s - SETUP_S
        took_s = world.now() - asked_s
        joined = [node.instance_id for node in world.head.ray.running]
        steps = [_steps(world, instance_id, asked_s, setups_s) for instance_id in joined]
        made = sum(i.type.gpus > 0 for i in world.simulation.cloud.instances.values())
        took = f"{took_s:.0f} s" if took_s < LIMIT_S else "not in 15 minutes"
        means = " | ".join(f"{mean(each):.0f}" for each in zip(*steps, strict=True))
        over = world.report()["requests_over_rate"]
        return f"{took} | {means} | {made} | {world.reinstalls} | {over}"


def _steps(
    world: World, instance_id: str, asked_s: float, setups_s: dict[str, float]
) -> tuple[float, ...]:
    """Seconds from the demand to the launch, to the machine's start, to its setup, to its end."""
    instance = world.simulation.cloud.instances[instance_id]
    active_s = next(began for began, status in instance.history if status == "active")
    setup_s = setups_s[instance_id]
    return (
        instance.launched_at - asked_s,
        active_s - instance.launched_at,
        setup_s - active_s,
        SETUP_S,
    )


def main() -> None:
    logging.disable(logging.CRITICAL)
    steps = "request | boot | until setup | setup"
    sys.stdout.write(
        f"| fault | provider | all joined | {steps} | made | reinstalled | over the rate |\n"
        f"|{'---|' * 10}\n"
    )
    for name, fault in CASES.items():
        for side in SIDES:
            sys.stdout.write(f"| {name} | {side} | {live(side, fault)} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
