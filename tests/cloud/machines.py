"""A simulated cloud of real machines in a process of its own, and ssh into its machines."""

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest
import requests

from autoscaler.simulator.machines.probe import Mode, why_not

KEY = "-".join(("cloud", "test", "key", "0123456789abcdef"))
QUICK = {
    "boot_s": {"cpu": [0.5, 0.5], "single": [0.5, 0.5], "multi": [0.5, 0.5]},
    "terminating_s": [1, 1],
    "restart_s": 1,
    "enforce_rates": False,
}
"""Settings for machines that are made as fast as they can be."""

T = TypeVar("T")


def require_machines(mode: Mode) -> None:
    """Skips without machines of this mode; fails where they are owed: as root, and in CI."""
    assert mode != "none"
    reason = why_not(mode)
    if reason is None:
        return
    if os.geteuid() == 0 or os.environ.get("CI"):
        pytest.fail(f"no machines: {reason}")
    pytest.skip(reason)


def wait_for(what: str, condition: Callable[[], T], timeout_s: float = 30.0) -> T:
    """The first true value of `condition`."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline_s, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.1)
    return value


def make_key(folder: Path) -> Path:
    """A new key pair of OpenSSH; returns the private half's path."""
    path = folder / "id_ed25519"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)], check=True
    )
    return path


def command_lines() -> Iterator[tuple[int, bytes]]:
    """(id, command line) of the host's processes, those of machines too, without this one."""
    for folder in Path("/proc").glob("[0-9]*"):
        if int(folder.name) != os.getpid():
            with suppress(OSError):
                yield int(folder.name), (folder / "cmdline").read_bytes()


def processes_with(text: str) -> list[int]:
    return [pid for pid, command in command_lines() if text.encode() in command]


@contextmanager
def process_list_watched(secrets: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Fails at the end if a command line of the host or of its machines showed a secret, as far
    as ten looks a second can tell."""
    seen: set[bytes] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            texts = [secret.encode() for secret in secrets()]
            for _, command in command_lines():
                if any(text in command for text in texts):
                    seen.add(command)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not seen, seen


class CloudProcess:
    """`with CloudProcess("root", folder) as cloud:` serves until the block ends.

    `prefix` starts the simulator in some other way than directly. `lines` is what it printed;
    `url` is of its server. `identities` are the private keys that `ssh` tries.
    """

    def __init__(
        self,
        mode: Mode,
        folder: Path,
        *flags: str,
        settings: Mapping[str, Any] = QUICK,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.mode = mode
        self.folder = folder
        words = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
        self._command = [
            *(*prefix, sys.executable, "-m", "autoscaler.simulator", "--machines", mode),
            *(word for setting in words for word in ("--set", setting)),
            *flags,
        ]
        self._pace_s = 0.0 if settings.get("enforce_rates") is False else 1.1
        self._next_s = 0.0
        self._environment = {**os.environ, "LAMBDA_API_KEY": KEY, **(environment or {})}

    def __enter__(self) -> Self:
        self._errors = (self.folder / "simulator.err").open("w+b")
        self.process = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=self._environment,
        )
        self.lines = [self._line()]
        if self.mode != "none":
            self.lines.append(self._line())
        if self.mode == "user":
            self.lines += [self._line(), self._line()]
        self.url = self.lines[0]
        self.identities = [make_key(self.folder)]
        self.add_key("test", self.identities[0])
        return self

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, Path(self._errors.name).read_text()
        return line

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.terminate()
        assert self.process.wait(60) in (0, -9), Path(self._errors.name).read_text()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One call of Lambda's API, or of the simulator's controls below `/sim`."""
        base = self.url if path.startswith("/sim") else f"{self.url}/api/v1"
        if base != self.url:
            time.sleep(max(0.0, self._next_s - time.monotonic()))
            self._next_s = time.monotonic() + self._pace_s
        for _ in range(10):
            reply = requests.request(
                method,
                base + path,
                json=body,
                headers={"Authorization": f"Bearer {KEY}"},
                timeout=10,
            )
            if reply.status_code != 429:  # others use the account too
                break
            time.sleep(1.1)
        assert reply.status_code == 200, reply.text
        return reply.json()["data"]

    def add_key(self, name: str, private_key: Path) -> None:
        public_key = private_key.with_suffix(".pub").read_text().strip()
        self.call("POST", "/ssh-keys", {"name": name, "public_key": public_key})

    def launch(self, instance_type: str, **more: Any) -> str:
        """Launches one instance and returns its id."""
        body = {
            "region_name": "us-east-1",
            "instance_type_name": instance_type,
            "ssh_key_names": ["test"],
            **more,
        }
        return self.call("POST", "/instance-operations/launch", body)["instance_ids"][0]

    def row(self, instance_id: str) -> dict[str, Any]:
        """An instance as the simulator's own ledger has it, which costs no request."""
        rows = self.call("GET", "/sim/ledger")["rows"]
        return next(row for row in rows if row["id"] == instance_id)

    def active(self, instance_id: str) -> str:
        """Waits for an instance to be active and returns its address."""

        def address() -> str | None:
            row = self.row(instance_id)
            return row["ip"] if row["status"] == "active" else None

        return wait_for(f"instance {instance_id} active", address)

    def ssh(
        self, ip: str, command: str, *, check: bool = True, timeout_s: float = 60.0
    ) -> "subprocess.CompletedProcess[str]":
        """Runs a command on a machine as ubuntu."""
        done = subprocess.run(
            [
                *self.way_in(),
                *("ssh", *(word for path in self.identities for word in ("-i", str(path)))),
                *("-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"),
                *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
                *("-o", "LogLevel=ERROR", f"ubuntu@{ip}", command),
            ],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def way_in(self) -> list[str]:
        """What a command must start with to reach the machines."""
        if self.mode != "user":
            return []
        words = shlex.split(self.lines[3].removeprefix("to them: "))
        return words[: words.index("COMMAND")]
