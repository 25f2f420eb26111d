"""A simulator of Lambda Cloud: its HTTP API over simulated instances, time, faults and a bill.

    with SimulatedCloud(CloudConfig(seed=7)) as sim:
        requests.get(f"{sim.api_url}/instances", headers={"Authorization": "Bearer sim"}, timeout=5)
        sim.add_fault(Stockout("gpu_1x_h100*", "*", to_s=600))
        sim.advance(300)
        sim.invariants.report()

`api/` is the HTTP face, `cloud/` the state machine behind it, `machines/` what an instance is
(a record, or Linux namespaces with an sshd). Start with `simulation.py`, then `cloud/cloud.py`.
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
from autoscaler.simulator.server import SimulatedCloud
from autoscaler.simulator.simulation import InProcessAdapter, Simulation

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
