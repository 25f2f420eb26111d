"""Machines of Linux namespaces on this host: each with its own network, files and sshd.

One process supervises them, and the kernel ends every machine when it dies: the processes of
a machine die with its process 1, that one with the `unshare` that made it, and that with the
thread that forked it. So one thread forks them all and lives as long as the process.
`machine.sh` is what it forks; without root the supervisor first becomes root of a user
namespace of its own.
"""

import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, NoReturn, Self

from autoscaler.simulator.machines import network
from autoscaler.simulator.machines.image import SYSTEM_PATH, USER_ID, visible, write_tree
from autoscaler.simulator.machines.machines import Address, Blueprint
from autoscaler.simulator.machines.memory import MemoryLimits
from autoscaler.simulator.machines.network import (
    PREFIX_LENGTH,
    Bridge,
    ip_command,
    is_alive,
    own_mark,
)

log = logging.getLogger(__name__)

_SCRIPT = Path(__file__).with_name("machine.sh")
_RUN_PREFIX = "raylambda-sim-"
_OWNER_FILE = "supervisor"
_START_TIMEOUT_S = 30.0


@dataclass
class _Machine:
    blueprint: Blueprint
    ip: str
    number: int
    wanted: bool = True
    ready: bool = False
    process: "subprocess.Popen[bytes] | None" = None
    gone: threading.Event = field(default_factory=threading.Event)


class Namespaces:
    """`with Namespaces() as machines:` makes machines and ends them all with the block.

    In mode `root` the caller is root of this host; in mode `user` it is root of a user namespace
    with its own network (`restart_in_user_namespace`), and machines have no memory limit. A
    machine has the memory of its instance type, at most `memory_limit_bytes`, and each of its
    writable folders at most `disk_bytes` of it. `on_down` is called with the id of a machine
    that shut itself down. Without a `run_dir` one is made below TMPDIR and removed at the end;
    the machines' output is in its `log`.
    """

    def __init__(
        self,
        mode: Literal["root", "user"] = "root",
        *,
        memory_limit_bytes: int = 6 * 2**30,
        disk_bytes: int = 4 * 2**30,
        run_dir: Path | None = None,
        on_down: Callable[[str], None] = lambda instance_id: None,
    ) -> None:
        self._mode = mode
        self._memory_limit_bytes, self._disk_bytes = memory_limit_bytes, disk_bytes
        self._given_run_dir = run_dir
        self.on_down = on_down
        self._machines: dict[str, _Machine] = {}
        self._made = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Removes what dead supervisors left, and makes the network. OSError when it cannot."""
        self._forker = ThreadPoolExecutor(1, "machines")
        dead_bridges = network.sweep()
        _sweep_run_dirs()
        self.run_dir = self._given_run_dir or Path(tempfile.mkdtemp(prefix=_RUN_PREFIX))
        (self.run_dir / "log").mkdir(parents=True, exist_ok=True)
        (self.run_dir / _OWNER_FILE).write_text(own_mark())
        self.bridge = Bridge()
        self._limits = MemoryLimits(self.bridge.name) if self._mode == "root" else None
        if self._limits is not None:
            self._limits.sweep(network.bridge_names())
        if dead_bridges:
            log.info("removed bridges of dead simulators: %s", ", ".join(dead_bridges))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            machines = list(self._machines.values())
        for machine in machines:
            self.stop(machine.blueprint.id)
        for machine in machines:
            machine.gone.wait(_START_TIMEOUT_S)
        self._forker.shutdown()
        self.bridge.remove()
        if self._limits is not None:
            self._limits.close()
        if self._given_run_dir is None:
            shutil.rmtree(self.run_dir, ignore_errors=True)

    @property
    def host_address(self) -> str:
        """The address at which machines reach this host."""
        return self.bridge.gateway

    def start(self, blueprint: Blueprint) -> None:
        """Begins to make the machine. One that restarts keeps its address, but not its disk."""
        with self._lock:
            before = self._machines.get(blueprint.id)
            self._made += 1
            ip = self.bridge.next_address() if before is None else before.ip
            machine = _Machine(blueprint, ip, self._made)
            self._machines[blueprint.id] = machine
        self._forker.submit(self._start, machine).add_done_callback(_log_failure)

    def stop(self, instance_id: str) -> None:
        machine = self._machines.get(instance_id)
        if machine is not None and machine.wanted:
            machine.wanted = machine.ready = False
            self._forker.submit(self._end, machine).add_done_callback(_log_failure)

    def address(self, instance_id: str) -> Address | None:
        machine = self._machines.get(instance_id)
        return Address(machine.ip, machine.ip) if machine is not None and machine.ready else None

    def folder_of(self, file_system_id: str) -> Path:
        """The folder of this host with the files of a file system."""
        folder = self.run_dir / "file-systems" / file_system_id
        if not folder.is_dir():
            folder.mkdir(parents=True)
            if self._mode == "root":
                os.chown(folder, USER_ID, USER_ID)
        return folder

    def _start(self, machine: _Machine) -> None:
        """Runs in the forking thread."""
        if not machine.wanted:
            machine.gone.set()
            return
        hostname = machine.blueprint.hostname or "ip-" + machine.ip.replace(".", "-")
        folder = self.run_dir / "machines" / str(machine.number)
        (folder / "root").mkdir(parents=True)
        is_root = self._mode == "root"
        write_tree(folder / "tree", machine.blueprint, hostname, machine.ip, as_root=is_root)
        mounts = [(str(self.folder_of(fs)), point) for point, fs in machine.blueprint.mounts]
        (folder / "mounts").write_text("".join(f"{a}\t{b}\n" for a, b in mounts))
        (folder / "visible").write_text("".join(f"{path}\t{path}\n" for path in visible()))
        memory_bytes = min(machine.blueprint.memory_gib * 2**30, self._memory_limit_bytes)
        groups = []
        if self._limits is not None:
            groups.append(self._limits.create(str(machine.number), memory_bytes))
        environment = {
            "PATH": SYSTEM_PATH,
            "SUPERVISOR": str(os.getpid()),
            "MODE": self._mode,
            "FOLDER": str(folder),
            "CGROUPS": " ".join(map(str, groups)),
            "MACHINE": hostname,
            "IP": machine.ip,
            "PREFIX": str(PREFIX_LENGTH),
            "GATEWAY": self.bridge.gateway,
            "USER_ID": str(USER_ID),
            "SHM_BYTES": str(memory_bytes // 2),
            "DISK_BYTES": str(self._disk_bytes),
        }
        with (self.run_dir / "log" / f"{hostname}.log").open("ab") as output:
            machine.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", "/bin/bash", str(_SCRIPT), "outside"],
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        threading.Thread(target=self._watch, args=(machine, machine.process), daemon=True).start()
        _wait_for_own_network(machine.process)
        self.bridge.attach(machine.number, machine.process.pid)

    def _end(self, machine: _Machine) -> None:
        """Runs in the forking thread, hence after `_start`."""
        if machine.process is not None:
            machine.process.kill()
            machine.process.wait()
            self.bridge.detach(machine.number)

    def _watch(self, machine: _Machine, process: "subprocess.Popen[bytes]") -> None:
        while process.poll() is None and not machine.ready and machine.wanted:
            machine.ready = _answers(machine.ip)
            time.sleep(0.05)
        process.wait()
        machine.ready = False
        if self._limits is not None:
            self._limits.remove(str(machine.number))
        shutil.rmtree(self.run_dir / "machines" / str(machine.number), ignore_errors=True)
        machine.gone.set()
        if machine.wanted:
            self.on_down(machine.blueprint.id)


def _answers(ip: str) -> bool:
    try:
        with socket.create_connection((ip, 22), 0.5):
            return True
    except OSError:
        return False


def _wait_for_own_network(process: "subprocess.Popen[bytes]") -> None:
    ours = os.readlink("/proc/self/ns/net")
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while os.readlink(f"/proc/{process.pid}/ns/net") == ours:
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise OSError("the machine's namespaces did not come up; see its log")
        time.sleep(0.005)


def _log_failure(done: "Future[None]") -> None:
    error = done.exception()
    if error is not None:
        log.error("could not start or end a machine: %s", error)


def _sweep_run_dirs() -> None:
    for owner in Path(tempfile.gettempdir()).glob(f"{_RUN_PREFIX}*/{_OWNER_FILE}"):
        if not is_alive(owner.read_text()):
            shutil.rmtree(owner.parent, ignore_errors=True)


def restart_in_user_namespace(host: str, port: int) -> NoReturn:
    """Replaces this process by the same command as root of a new user and network namespace.

    The socket that serves outside of it is bound before, and its descriptor passed on as
    `--listener-fd`. OSError when the port is in use.
    """
    listener = socket.create_server((host, port))
    listener.set_inheritable(True)
    again = [sys.executable, *sys.orig_argv[1:], "--listener-fd", str(listener.fileno())]
    namespaces = ("--user", "--map-root-user", "--net", "--mount", "--propagation", "private")
    os.execvp("unshare", ["unshare", *namespaces, "--", *again])


def inherited_listener(descriptor: int) -> socket.socket:
    """The listening socket that `restart_in_user_namespace` passed on. Brings the loopback up."""
    ip_command("link", "set", "lo", "up")
    return socket.socket(fileno=descriptor)
