"""A whole simulation in one object: cloud, API, controls. No network."""

from autoscaler.simulator.api import controls
from autoscaler.simulator.api.api import Answer, Api, Request
from autoscaler.simulator.cloud.clock import Clock, VirtualClock
from autoscaler.simulator.cloud.cloud import Cloud
from autoscaler.simulator.cloud.config import CloudConfig
from autoscaler.simulator.cloud.faults import Fault
from autoscaler.simulator.invariants import Invariants
from autoscaler.simulator.machines.machines import Machines, Records


class Simulation:
    """By default virtual time and records. Every method is safe across threads."""

    def __init__(
        self,
        config: CloudConfig | None = None,
        *,
        clock: Clock | None = None,
        machines: Machines | None = None,
    ) -> None:
        self.clock = clock or VirtualClock()
        self.cloud = Cloud(config or CloudConfig(), self.clock, machines or Records())
        self.api = Api(self.cloud)
        self.invariants = Invariants(self.api)
        self.controls = controls.Controls(self.api, self.invariants)

    def handle(self, request: Request) -> Answer:
        """Answers a request to Lambda's API or to the controls."""
        if request.path.startswith(controls.PREFIX + "/"):
            return self.controls.handle(request)
        return self.api.handle(request)

    def advance(self, seconds: float) -> float:
        """Lets virtual time pass, with all that comes due in it; returns the new time.

        TypeError where time passes by itself.
        """
        if not isinstance(self.clock, VirtualClock):
            raise TypeError("only virtual time can be advanced")
        with self.cloud.lock:
            self.clock.advance(seconds)
            return self.cloud.settle()

    def add_fault(self, fault: Fault) -> int:
        """Puts a fault in force and returns its number."""
        with self.cloud.lock:
            self.cloud.settle()
            return self.cloud.add_fault(fault)

    def remove_fault(self, number: int) -> bool:
        """Ends a fault; False when there is none of this number."""
        with self.cloud.lock:
            return self.cloud.faults.remove(number)
