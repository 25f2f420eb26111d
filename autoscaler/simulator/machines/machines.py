"""The machine behind an instance: the interface that the cloud calls, and no machine at all.

The cloud calls `start` when a launch is committed and `stop` when the instance ends or its
system shuts down. An instance is active no sooner than `address` knows its machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Address:
    """IP addresses of a machine: public, and private among the machines."""

    ip: str
    private_ip: str


@dataclass(frozen=True)
class Blueprint:
    """What a machine is made of.

    `number` counts the account's launches from 1. `public_keys` may log in as `ubuntu`.
    `mounts` holds (mount point, file system id) pairs. `gpus` is how many the driver shows,
    and `cuda_starts` whether CUDA initialises on them.
    """

    id: str
    number: int
    hostname: str | None
    vcpus: int
    memory_gib: int
    gpus: int
    gpu_name: str
    cuda_starts: bool
    public_keys: tuple[str, ...]
    mounts: tuple[tuple[str, str], ...]


class Machines(Protocol):
    """Makes and ends machines. The cloud calls it under its lock: no method may block."""

    def start(self, blueprint: Blueprint) -> None:
        """Begins to make the machine and returns at once."""
        ...

    def stop(self, instance_id: str) -> None:
        """Begins to end the machine; idempotent."""
        ...

    def address(self, instance_id: str) -> Address | None:
        """Where the machine answers; None until it does."""
        ...


class NoMachines:
    """Instances are records only: each has an address, never used twice, and nothing there."""

    def __init__(self) -> None:
        self._addresses: dict[str, Address] = {}

    def start(self, blueprint: Blueprint) -> None:
        n = blueprint.number
        if n >= 2**17 - 256:
            raise ValueError(f"no address left for instance number {n}")
        public = f"198.{18 + n // 65536}.{n // 256 % 256}.{n % 256}"
        private = f"10.{19 + n // 65536}.{n // 256 % 256}.{n % 256}"
        self._addresses[blueprint.id] = Address(public, private)

    def stop(self, instance_id: str) -> None:
        self._addresses.pop(instance_id, None)

    def address(self, instance_id: str) -> Address | None:
        return self._addresses.get(instance_id)
