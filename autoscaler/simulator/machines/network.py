"""The private network of the machines: one Linux bridge for each supervisor process.

A bridge carries its owner's mark, so the next supervisor can remove what a dead one left.
"""

import ipaddress
import json
import os
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

PREFIX_LENGTH = 22
"""Room for 1,021 machines. No address is used twice: ssh clients keep a connection by address
for seconds after its machine has died."""

_ALIAS = "raylambda-sim "
_NAME = re.compile(r"rls\d+x\d+")
_TRIES = 50
_FIELDS_BEFORE_START = 19
"""In /proc/PID/stat, of the fields after the command's name (proc(5), field 22)."""


def ip_command(*words: str) -> str:
    """Runs `ip`; OSError with its own words when it fails."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class Bridge:
    """A bridge that is up from construction until `remove`. This host has its first address."""

    def __init__(self) -> None:
        self.name, self.network = _make()
        self._hosts = self.network.hosts()
        self.gateway = str(next(self._hosts))
        ip_command("addr", "add", f"{self.gateway}/{PREFIX_LENGTH}", "dev", self.name)
        ip_command("link", "set", self.name, "up")

    def next_address(self) -> str:
        """An address that no machine had. OSError when there is none left."""
        address = next(self._hosts, None)
        if address is None:
            raise OSError(f"all addresses of {self.network} have been used")
        return str(address)

    def attach(self, number: int, pid: int) -> None:
        """Gives the network namespace of a process an `eth0` on this bridge."""
        port = self._port(number)
        peer = ("type", "veth", "peer", "name", "eth0", "netns", str(pid))
        ip_command("link", "add", "name", port, *peer)
        ip_command("link", "set", port, "master", self.name, "up")

    def detach(self, number: int) -> None:
        """Removes a machine's link; idempotent. Without it a dead machine may answer for minutes,
        because its open sockets keep the namespace."""
        _delete(self._port(number))

    def remove(self) -> None:
        """Removes the bridge with its links; idempotent."""
        _remove(self.name)

    def _port(self, number: int) -> str:
        return f"v{self.name.removeprefix('rls')}n{number}"


def sweep() -> list[str]:
    """Removes the bridges of dead supervisors and returns their names."""
    dead = [name for name, mark in _bridges() if not is_alive(mark)]
    for name in dead:
        _remove(name)
    return dead


def bridge_names() -> set[str]:
    """The names of all supervisors' bridges, dead ones that are not swept yet included."""
    return {name for name, _ in _bridges()}


def _bridges() -> Iterator[tuple[str, str]]:
    for link in json.loads(ip_command("-j", "link", "show", "type", "bridge") or "[]"):
        alias = link.get("ifalias", "")
        if _NAME.fullmatch(link.get("ifname", "")) and alias.startswith(_ALIAS):
            yield link["ifname"], alias.removeprefix(_ALIAS)


def _make() -> tuple[str, ipaddress.IPv4Network]:
    """A bridge named after its network, so that of two supervisors only one gets a network."""
    taken = _routed()
    rng = random.Random()
    for _ in range(_TRIES):
        second, third = rng.randrange(100, 228), rng.randrange(0, 256, 4)
        network = ipaddress.IPv4Network(f"10.{second}.{third}.0/{PREFIX_LENGTH}")
        if any(network.overlaps(other) for other in taken):
            continue
        name = f"rls{second}x{third}"
        try:
            ip_command("link", "add", "name", name, "type", "bridge")
        except OSError as error:
            if "exists" in str(error):
                continue
            raise
        ip_command("link", "set", name, "alias", _ALIAS + own_mark())
        return name, network
    raise OSError("no free network in 10.100.0.0 to 10.227.0.0")


def _routed() -> list[ipaddress.IPv4Network]:
    routes = json.loads(ip_command("-j", "-4", "route", "show") or "[]")
    return [ipaddress.IPv4Network(r["dst"]) for r in routes if r["dst"] != "default"]


def _remove(name: str) -> None:
    try:
        ports = json.loads(ip_command("-j", "link", "show", "master", name) or "[]")
    except OSError:
        return
    for port in ports:
        _delete(port["ifname"])
    _delete(name)


def _delete(name: str) -> None:
    try:
        ip_command("link", "del", name)
    except OSError as error:
        if "Cannot find device" not in str(error):
            raise


def mark_of(pid: int) -> str | None:
    """The owner mark of a process: `PID.START`; None when there is no such process.

    START is when the process started, in clock ticks: a reused process id has another mark.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    state, start = fields[0], fields[_FIELDS_BEFORE_START]
    return None if state == "Z" else f"{pid}.{start}"


def own_mark() -> str:
    """The mark of this process."""
    mark = mark_of(os.getpid())
    if mark is None:
        raise RuntimeError("/proc does not show this process")
    return mark


def is_alive(mark: str) -> bool:
    """Whether the process of this mark still runs; False for what is no mark."""
    pid = mark.partition(".")[0]
    return pid.isdecimal() and mark_of(int(pid)) == mark
