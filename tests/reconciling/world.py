"""A cloud, a laptop that runs `ray up` and `ray down`, and a head with its monitor."""

import copy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from autoscaler.lambda_cloud.rate_limit import Turn
from autoscaler.provider import LambdaNodeProvider, ProviderError
from autoscaler.simulator import Simulation
from tests import provider_rig as rig
from tests.reconciling.head import Head, Killed, MakeMonitor, MakeProvider

TICK_S = 5.0
START_WAIT_S = 120.0
"""Ray waits 900 s for a node's ssh; boots are shorter here."""
HEAD = {"ray-node-type": "head"}


class World:
    """`events` are what happens: (seconds from the start, what to do), in order of time."""

    def __init__(
        self,
        make_monitor: MakeMonitor,
        *,
        simulation: Simulation | None = None,
        config: dict[str, Any] | None = None,
        tick_s: float = TICK_S,
        turns: bool = True,
        make_provider: MakeProvider = LambdaNodeProvider,
    ) -> None:
        self.make_provider = make_provider
        self.simulation = simulation or rig.account()
        self.config = config or rig.cluster_yaml()
        self.make_monitor = make_monitor
        self.turns = turns
        self.tick_s = tick_s
        self.head: Head | None = None
        self.all_heads: list[Head] = []
        self.ticks = 0
        self.events: list[tuple[float, Callable[[World], None]]] = []
        self._folder = tempfile.TemporaryDirectory(prefix="world-")
        self.began_s = self.now()
        self._next_tick_s = self.now()
        self._busy = False
        self._depth = 0
        self.laptop_session = rig.session(
            self.simulation,
            Path(self._folder.name, "laptop"),
            sleep=self.pass_time,
            turn=Turn.LAPTOP if turns else None,
        )
        self.laptop = self._new_laptop()

    def _new_laptop(self) -> Any:
        """Each command of Ray's is a process of its own, over the same state."""
        return self.make_provider(rig.laptop_section(self.config), "demo", self.laptop_session)

    def now(self) -> float:
        return self.simulation.clock.now()

    @contextmanager
    def living(self) -> Iterator["World"]:
        """Ray reads the time from the simulation, and the folders go at the end."""
        with (
            patch("time.time", self.now),
            patch("time.time_ns", lambda: int(self.now() * 1e9)),
            self._folder,
        ):
            yield self

    @property
    def reinstalls(self) -> int:
        return sum(head.ray.reinstalls for head in self.all_heads)

    # Time

    def at(self, seconds: float, event: "Callable[[World], None]") -> None:
        """Plans an event, in seconds from the start."""
        self.events.append((seconds, event))
        self.events.sort(key=lambda planned: planned[0])

    def run_for(self, seconds: float) -> None:
        end_s = self.now() + seconds
        while self.now() < end_s:
            self.pass_time(min(end_s, max(self._next_tick_s, self.now() + 0.1)) - self.now())

    def pass_time(self, seconds: float) -> None:
        """Somebody waits: everything else goes on meanwhile, but for what is waiting itself."""
        end_s = self.now() + seconds
        while True:
            step_s = end_s - self.now()
            if not self._busy:
                step_s = min(step_s, max(self._next_tick_s - self.now(), 0.0))
            if step_s > 0:
                self.simulation.advance(step_s)
            self._happen()
            if not self._busy and self.now() >= self._next_tick_s:
                self._next_tick_s = self.now() + self.tick_s
                self._tick()
            if self.now() >= end_s - 1e-9:
                return

    def _happen(self) -> None:
        while self.events and self.events[0][0] <= self.now() - self.began_s:
            self.events.pop(0)[1](self)

    def _tick(self) -> None:
        head = self.head
        if head is None or not head.is_alive:
            return
        self.ticks += 1
        self._busy = True
        try:
            head.monitor.tick()
        except Killed:
            self.restart_monitor()
        finally:
            self._busy = False
        # Two launches at once at most, as in Ray's pool; while one waits, rounds go on. What
        # they ask for has its turn with the next round of this level.
        for _ in range(len(head.monitor.launches) if self._depth < 2 else 0):
            if not head.monitor.launches:
                break
            job = head.monitor.launches.pop(0)
            self._depth += 1
            try:
                job()
            except Killed:
                if head is self.head and head.is_alive:
                    self.restart_monitor()
            finally:
                self._depth -= 1

    def restart_monitor(self) -> None:
        if self.head is not None and self.head.is_alive:
            self.head.start()

    # The laptop's commands

    def ray_up(self) -> None:
        """Makes the head if there is none, and starts Ray on it. Lambda may refuse it."""
        self._busy_laptop(self._bring_up)

    def _bring_up(self) -> None:
        self.laptop = self._new_laptop()
        heads = self.laptop.non_terminated_nodes(HEAD)
        if not heads:
            tags = rig.ray_tags("head")
            self.laptop.create_node(rig.node_config("head"), tags, 1)
            heads = self._fetch(tags)
        given_up_s = self.now() + START_WAIT_S
        while not self.is_up(heads[0]):
            if self.laptop.is_terminated(heads[0]):
                return
            if self.now() > given_up_s:
                self.laptop.set_node_tags(heads[0], {"ray-node-status": "update-failed"})
                return
            self.pass_time(TICK_S)
        self.laptop.set_node_tags(heads[0], {"ray-node-status": "up-to-date"})
        if self.head is None or self.head.instance_id != heads[0]:
            folder = Path(self._folder.name, f"head{len(self.all_heads)}")
            self.head = Head(self, heads[0], folder, self._section_of(heads[0]))
            self.all_heads.append(self.head)

    def _section_of(self, head_id: str) -> dict[str, Any]:
        """With what the run has cost before; a provider to compare with knows of no such thing."""
        if isinstance(self.laptop, LambdaNodeProvider):
            config = {**self.config, "provider": dict(self.laptop.provider_config)}
            return self.laptop.prepare_for_head_node(copy.deepcopy(config))["provider"]
        region = self.simulation.cloud.instances[head_id].spec.region
        return rig.head_section(self.config, region)

    def _fetch(self, tags: dict[str, str]) -> list[str]:
        """Ray looks for the head it has made for 50 s, and then leaves it behind."""
        given_up_s = self.now() + 50.0
        while True:
            heads = self.laptop.non_terminated_nodes(tags)
            if len(heads) == 1:
                return heads
            assert self.now() < given_up_s, "ray up did not find the head it had made"
            self.pass_time(TICK_S)

    def is_up(self, instance_id: str) -> bool:
        """Whether ssh would answer there."""
        instance = self.simulation.cloud.instances[instance_id]
        return instance.status == "active" and "shutdown" not in instance.faults

    def ray_down(self) -> None:
        """As `ray down`: what is listed ends, until nothing is; then the end is verified."""
        self.laptop = self._new_laptop()
        self._busy_laptop(self._take_down)

    def _take_down(self) -> None:
        while nodes := self._remaining():
            self.laptop.terminate_nodes(nodes)
            self.pass_time(TICK_S)
        if isinstance(self.laptop, LambdaNodeProvider):
            self.laptop.cluster.end()

    def _remaining(self) -> list[str]:
        """`ray down` ends with an error when the API stays away, and is run again."""
        try:
            return [
                *self.laptop.nodes_for_teardown(HEAD),
                *self.laptop.nodes_for_teardown({"ray-node-type": "worker"}),
            ]
        except ProviderError:
            self.pass_time(30.0)
            return self._remaining()

    def _busy_laptop(self, command: Callable[[], object]) -> None:
        """A command of the laptop's, which an error of the API may end."""
        with suppress(ProviderError):
            command()
        self.pass_time(1.0)

    def report(self) -> dict[str, Any]:
        return self.simulation.invariants.report()
