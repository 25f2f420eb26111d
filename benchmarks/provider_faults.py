"""The provider under faults, beside a plain one, through Ray's real autoscaler v2.

    python -m benchmarks.provider_faults [--case NAME]

Both run on the same simulated account, records only, in virtual time: seconds are the
cloud's. The plain one (`plain_provider`) follows the logic of Ray's provider for AWS. Only the
times of a reconcile are real, in CPU-milliseconds of one thread.
"""

import argparse
import logging
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from autoscaler.provider import LambdaNodeProvider
from autoscaler.simulator import (
    CloudConfig,
    FailNext,
    Omit,
    Outage,
    Simulation,
    Stockout,
    Window,
)
from autoscaler.simulator.cloud.instances import LaunchSpec
from benchmarks.plain_provider import PlainProvider
from tests import provider_rig as rig
from tests.reconciling.v2 import V2Monitor
from tests.reconciling.world import World

Row = dict[str, Any]
SIDES = ("ours", "plain")
FIVE_MINUTES_S = 300.0
ROUNDS = 5
OPENINGS = 6
SHORT_BOOTS = {"cpu": (10.0, 20.0), "single": (20.0, 40.0), "multi": (30.0, 60.0)}
"""Where only what comes after the boot matters."""


def make_world(side: str, config: dict[str, Any] | None = None, **cloud: Any) -> World:
    """The plain one has no pace: for it the account's rates are counted, not enforced."""
    ours = side == "ours"
    simulation = rig.account(enforce_rates=ours, **cloud)
    make = LambdaNodeProvider
    if side == "plain":
        make = partial(PlainProvider, simulation=simulation)
    return World(V2Monitor, simulation=simulation, config=config, make_provider=make, turns=ours)


def two_types(side: str) -> dict[str, Any]:
    """H100 before A100: ours in one node type; where a type has one instance type, in two."""
    config = rig.cluster_yaml(regions=[rig.REGION])
    if side == "plain":
        types = config["available_node_types"]
        gpu = types.pop("gpu")
        for name, instance_type in (("h100", rig.H100), ("a100", rig.A100)):
            types[name] = {**gpu, "node_config": {"instance_types": [instance_type]}}
    return config


def launches(world: World) -> list[tuple[float, str, bool]]:
    """(when, type, whether it made a machine) of every launch that reached the cloud."""
    return [
        (call.at, call.subject.split()[0], call.outcome == 200)
        for call in world.simulation.api.calls
        if call.endpoint == "launch" and call.subject
    ]


def sold_out(side: str) -> Row:
    """H100 is advertised and refused, A100 is free; two GPUs are asked for."""
    world = make_world(side, two_types(side))
    with world.living():
        world.ray_up()
        world.simulation.add_fault(Stockout(rig.H100, advertised=True))
        asked_s = world.now()
        world.head.ray.demand = 2
        world.run_for(FIVE_MINUTES_S)
        sent = [call for call in launches(world) if call[0] >= asked_s]
        refused_s = next(at for at, name, _ in sent if name == rig.H100)
        first = next((at - refused_s for at, name, _ in sent if name == rig.A100), None)
        return {
            "launches of H100": sum(name == rig.H100 for _, name, _ in sent),
            "launches of A100": sum(name == rig.A100 for _, name, _ in sent),
            "A100 asked for after s of the first refusal": None if first is None else round(first),
        }


def storm(side: str, seconds: float = 600.0) -> Row:
    """Nothing is to be had, though advertised; two GPUs are asked for, for ten minutes."""
    world = make_world(side, two_types(side))
    with world.living():
        world.ray_up()
        world.simulation.add_fault(Stockout(advertised=True))
        before = world.report()["requests_by_endpoint"].get("launch", 0)
        world.head.ray.demand = 2
        started_s = world.now()
        world.run_for(seconds)
        sent = world.report()["requests_by_endpoint"].get("launch", 0) - before
        return {
            "launches a minute": round(sent * 60 / (world.now() - started_s), 1),
            "over the account's rate": world.report()["launches_over_rate"],
        }


def opening(side: str) -> Row:
    """Capacity opens for 84 s, once, after a long stockout; at OPENINGS different moments."""
    caught: list[float] = []
    for index in range(OPENINGS):
        opens_s = 400.0 + 61.0 * index
        config = two_types(side)
        world = make_world(
            side,
            config,
            windows=tuple(
                Window(name, "*", opens_s, opens_s + 84.0) for name in (rig.H100, rig.A100)
            ),
        )
        with world.living():
            world.ray_up()
            world.head.ray.demand = 1
            world.run_for(opens_s + 100.0 - (world.now() - world.began_s))
            made = [at for at, name, ok in launches(world) if ok and name != rig.CPU]
            if made:
                caught.append(made[0] - world.began_s - opens_s)
    return {
        "openings caught": f"{len(caught)} of {OPENINGS}",
        "after s (most)": round(max(caught)) if caught else None,
    }


def down(side: str) -> Row:
    """`ray down` right after the head has sent a launch that is carried out 15 s later.

    The head cannot be reached, so its monitor runs on until its machine ends; lists lag 20 s.
    """
    world = make_world(side, two_types(side), list_lag_s=(20.0, 20.0))
    with world.living():
        world.ray_up()
        world.head.ray.demand = 1
        world.run_for(120.0)
        sent = len(launches(world))
        world.simulation.add_fault(FailNext(failure=504, committed=True, commit_after_s=15.0))
        world.head.ray.demand = 5
        took_s = down_at_the_next_launch(world, sent)
        world.simulation.invariants.expect_none()
        world.simulation.advance(3600.0)
        report = world.report()
        return {
            "took s": round(took_s),
            "instances left": report["leaked_instances"],
            "instance-seconds billed in the next hour": round(report["leaked_seconds"]),
        }


def down_at_the_next_launch(world: World, sent: int) -> float:
    """Seconds that `ray down` took, begun within a second of the head's launch."""
    began = ended = 0.0

    def look(world: World) -> None:
        nonlocal began, ended
        if len(launches(world)) == sent:
            world.at(world.now() - world.began_s + 1.0, look)
            return
        began = world.now()
        world.ray_down()
        ended = world.now()

    look(world)
    world.run_for(120.0)
    assert began, "the head sent no launch"
    return ended - began


def outage(side: str) -> Row:
    """The API is away for 60 s while six workers run."""
    world = make_world(side, two_types(side), boot_s=SHORT_BOOTS)
    with world.living():
        _run_six(world)
        before = {node.instance_id for node in world.head.ray.running}
        world.simulation.add_fault(Outage(to_s=60.0))
        world.run_for(240.0)
        after = {node.instance_id for node in world.head.ray.running}
        return {
            "workers": len(before),
            "lost": len(before - after),
            "rounds without a list": world.head.monitor.outages,
        }


def omission(side: str) -> Row:
    """One list leaves all six running workers out."""
    world = make_world(side, two_types(side), boot_s=SHORT_BOOTS)
    with world.living():
        _run_six(world)
        world.simulation.add_fault(Omit())
        world.run_for(240.0)
        return {"Ray reinstalled over live workers": world.reinstalls}


def ambiguous(side: str) -> Row:
    """Of six launches every second is carried out and answered with 504."""
    world = make_world(side, two_types(side))
    with world.living():
        world.ray_up()
        for _ in range(3):
            world.simulation.add_fault(FailNext(failure=504, committed=True))
            world.head.ray.demand += 2
            world.run_for(60.0)
        made = sum(i.type.gpus > 0 for i in world.simulation.cloud.instances.values())
        return {"workers asked for": 6, "machines made": made}


def _run_six(world: World) -> None:
    world.ray_up()
    world.head.ray.demand = 6
    world.run_for(240.0)
    assert len(world.head.ray.running) == 6


def reconcile(side: str, count: int) -> Row:
    """One round's questions of Ray's about so many running workers, provider alone."""
    simulation = Simulation(CloudConfig(request_interval_s=0.0))
    for index in range(count):
        tags = {
            **rig.ray_tags("head" if index == 0 else "worker"),
            "ray-cluster-name": "demo",
            "raylambda-nonce": f"{index:016x}",
            "raylambda-created": str(int(simulation.clock.now())),
        }
        simulation.cloud.commit(
            LaunchSpec(rig.A10, rig.REGION, "sim-key", f"n{index}", tags=tuple(tags.items()))
        )
    simulation.advance(400.0)
    with TemporaryDirectory() as folder:
        session = rig.session(simulation, Path(folder))
        provider: Any = LambdaNodeProvider(rig.head_section(rig.CLUSTER), "demo", session)
        if side == "plain":
            provider = PlainProvider(
                rig.head_section(rig.CLUSTER), "demo", session, simulation=simulation
            )
        _ask(provider, simulation)
        before = simulation.invariants.report()["requests"]
        spent_ms = sorted(_ask(provider, simulation) for _ in range(ROUNDS))
        requests = simulation.invariants.report()["requests"] - before
        tracemalloc.start()
        _ask(provider, simulation)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return {
        "requests a round": requests / ROUNDS,
        "CPU ms a round": round(spent_ms[ROUNDS // 2], 1),
        "peak MiB": round(peak_bytes / 2**20, 1),
    }


def _ask(provider: Any, simulation: Simulation) -> float:
    """What the adapter of v2 asks in a round; CPU-milliseconds, the simulator's share included."""
    simulation.advance(5.0)
    started_s = time.process_time()
    for node_id in provider.non_terminated_nodes({}):
        provider.node_tags(node_id)
        provider.is_running(node_id)
    return (time.process_time() - started_s) * 1000


CASES: dict[str, Callable[[str], Row]] = {
    "H100 sold out, A100 free": sold_out,
    "total stockout": storm,
    "capacity opens for 84 s": opening,
    "ray down, launch in flight": down,
    "API away for 60 s": outage,
    "one list omits all workers": omission,
    "launches without a clear answer": ambiguous,
    "a round over 1 node": partial(reconcile, count=1),
    "a round over 100 nodes": partial(reconcile, count=100),
    "a round over 1,000 nodes": partial(reconcile, count=1000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, help="this one only")
    chosen = parser.parse_args().case
    logging.disable(logging.CRITICAL)
    print("| case | figure | ours | plain |\n|---|---|---|---|")
    for name, case in CASES.items():
        if chosen in (None, name):
            ours, plain = (case(side) for side in SIDES)
            for figure, value in ours.items():
                print(f"| {name} | {figure} | {value} | {plain[figure]} |", flush=True)


if __name__ == "__main__":
    main()
