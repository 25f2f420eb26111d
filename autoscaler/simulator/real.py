"""A simulated cloud whose instances are real machines."""

import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from autoscaler.simulator.cloud.clock import Clock, ScaledClock
from autoscaler.simulator.cloud.config import CloudConfig
from autoscaler.simulator.cloud.faults import Ailment
from autoscaler.simulator.machines.namespaces import Namespaces
from autoscaler.simulator.server import SimulatedCloud


@contextmanager
def cloud_of_machines(
    config: CloudConfig | None = None,
    *,
    mode: Literal["root", "user"] = "root",
    clock: Clock | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    listener: socket.socket | None = None,
    memory_limit_bytes: int = 6 * 2**30,
    disk_bytes: int = 4 * 2**30,
    run_dir: Path | None = None,
) -> Iterator[tuple[SimulatedCloud, Namespaces]]:
    """Serves on `host` and, at the same port, on the address at which machines reach this host.

    A machine that shuts itself down becomes an instance that does, and goes on billing. All
    machines end with the block. OSError when the network or the port cannot be had.
    """
    with Namespaces(
        mode, memory_limit_bytes=memory_limit_bytes, disk_bytes=disk_bytes, run_dir=run_dir
    ) as machines:
        sim = SimulatedCloud(
            config,
            clock=clock or ScaledClock(),
            machines=machines,
            host=host,
            port=port,
            also=(machines.host_address,),
            listener=listener,
        )

        def shut_down(instance_id: str) -> None:
            with contextlib.suppress(ValueError):  # ended and forgotten meanwhile
                sim.add_fault(Ailment("shutdown", instance_id=instance_id))

        machines.on_down = shut_down
        with sim:
            yield sim, machines
