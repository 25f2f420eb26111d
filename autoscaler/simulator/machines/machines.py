"""What stands behind an instance: nothing but a record, or a real machine.

The cloud calls `start` when a launch is committed and `stop` when the instance ends or its
system shuts down. It shows an instance as active no sooner than `address` knows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Address:
    """Where a machine is reached, from outside and from its neighbours."""

    ip: str
    private_ip: str


@dataclass(frozen=True)
class Blueprint:
    """What a machine is made of.

    `number` counts the account's launches from 1. `public_keys` open the account `ubuntu`.
    `mounts` holds (mount point, file system id) pairs. `gpus` is how many the driver shows,
    and `cuda_starts` whether they can be used.
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
    """A source of machines. The cloud calls it under its lock: no method may block."""

    def start(self, blueprint: Blueprint) -> None:
        """Begins to make the machine and returns at once."""
        ...

    def stop(self, instance_id: str) -> None:
        """Begins to end the machine; nothing happens to one that is gone."""
        ...

    def address(self, instance_id: str) -> Address | None:
        """Where the machine answers; None until it does."""
        ...


class Records:
    """Machines that are records only: an address each, never used twice."""

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
