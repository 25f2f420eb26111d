"""A Lambda Cloud of one's own: Lambda's HTTP API over simulated instances and a bill.

    with SimulatedCloud(CloudConfig(seed=7)) as sim:
        requests.get(f"{sim.api_url}/instances", headers={"Authorization": "Bearer sim"}, timeout=5)
        sim.add_fault(Stockout("gpu_1x_h100*", "*", to_s=600))
        sim.advance(300)
        sim.invariants.report()

Nothing else of the product imports it; it imports nothing else of the product.
"""

from autoscaler.simulator.cloud.clock import ScaledClock, VirtualClock
from autoscaler.simulator.cloud.config import CloudConfig, Window
from autoscaler.simulator.cloud.faults import (
    AccountInactive,
    FailNext,
    InstanceFault,
    ListLag,
    Omit,
    Outage,
    RevokeKey,
    StaleList,
    Stockout,
)
from autoscaler.simulator.server import SimulatedCloud, Simulation
from autoscaler.simulator.transport import InProcessAdapter

__all__ = [
    "AccountInactive",
    "InstanceFault",
    "CloudConfig",
    "FailNext",
    "InProcessAdapter",
    "ListLag",
    "Omit",
    "Outage",
    "RevokeKey",
    "ScaledClock",
    "SimulatedCloud",
    "Simulation",
    "StaleList",
    "Stockout",
    "VirtualClock",
    "Window",
]
