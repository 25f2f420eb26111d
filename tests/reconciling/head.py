"""The head's machine: one process on it matters, and it may die at any moment."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import requests

from autoscaler.lambda_cloud.rate_limit import Turn
from autoscaler.session import Session
from autoscaler.simulator import InProcessAdapter, Simulation
from tests import provider_rig as rig
from tests.reconciling.ray_cluster import RayCluster

if TYPE_CHECKING:
    from tests.reconciling.world import World


class Killed(BaseException):
    """The process is gone: nothing of it runs on."""


class Monitor(Protocol):
    launches: list[Callable[[], None]]

    def tick(self) -> None: ...


MakeMonitor = Callable[[dict[str, Any], Any, RayCluster], Monitor]
MakeProvider = Callable[[dict[str, Any], str, Session], Any]
"""From provider section, cluster name and session: ours, or another to compare with."""


class _MortalAdapter(InProcessAdapter):
    """Lets the process die at its next launch, before the request or after it was carried out."""

    def __init__(self, simulation: Simulation) -> None:
        super().__init__(simulation)
        self.die: str | None = None

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        if self.die is None or not str(request.url).endswith("/launch"):
            return super().send(request, *args, **kwargs)
        when, self.die = self.die, None
        if when == "after":
            super().send(request, *args, **kwargs)
        raise Killed


class Head:
    """The head's machine and the one process on it that matters."""

    def __init__(
        self, world: "World", instance_id: str, home: Path, section: dict[str, Any]
    ) -> None:
        """`section` is the provider's, as `ray up` has prepared it for this head."""
        self.world = world
        self.section = section
        self.instance_id = instance_id
        self.home = home
        self.ray = RayCluster(world.simulation, instance_id)
        self.lives = 0
        self.start()

    def start(self) -> None:
        """A new process over the machine's old state."""
        self.lives += 1
        life = self.lives
        self.adapter = _MortalAdapter(self.world.simulation)
        self.session = Session(
            rig.ApiKey("sim"),
            rig.URL,
            self.home,
            clock=self.world.simulation.clock.now,
            sleep=lambda seconds: self._sleep(seconds, life),
            turn=Turn.HEAD if self.world.turns else None,
            adapter=self.adapter,
            durable=False,
        )
        self.provider = self.world.make_provider(self.section, "demo", self.session)
        self.monitor = self.world.make_monitor(self.world.config, self.provider, self.ray)

    @property
    def is_alive(self) -> bool:
        return self.ray.runs(self.instance_id)

    def _sleep(self, seconds: float, life: int) -> None:
        self.world.pass_time(seconds)
        if life != self.lives or not self.is_alive:
            raise Killed
