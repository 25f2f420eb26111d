"""Which code a machine runs, and whether the autoscaler of a head is at work.

`raylambda check-head` is the last of the head's start commands. Ray starts its autoscaler as a
process of its own and does not look at it again: if our provider cannot be imported, that
process exits, `ray up` succeeds, `ray status` looks as ever, and no worker ever comes.
"""

import hashlib
import os
import platform
import re
import time
import tomllib
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from autoscaler.errors import MonitorError
from autoscaler.events import LIST_FAILED, WATCHING, EventLog, Field
from autoscaler.lambda_cloud.credentials import home_dir

TIMEOUT_S = 90.0
"""It answers within some seconds of its start; a busy machine may need many times that."""
_LOOK_EVERY_S = 0.2
_BEGAN_WITHIN_S = 2.0
"""The kernel tells a process's beginning on a clock of its own, to about a second."""
_LAST_EVENTS = 200
_MONITORS = ("/autoscaler/v2/monitor.py", "/autoscaler/_private/monitor.py")
_LOGS = Path("/tmp/ray/session_latest/logs")
_PACKAGE = Path(__file__).resolve().parents[1]


def wait_for_monitor(
    *,
    proc: Path = Path("/proc"),
    logs: Path = _LOGS,
    home: Path | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Waits until Ray's monitor runs and has read Lambda's list of nodes; returns its version.

    The provider in it says so in the event log. Raises MonitorError when it ends or does not
    come so far, with what its lists failed of, or the last line of its own log.
    """
    deadline_s = clock() + TIMEOUT_S
    events = EventLog((home or home_dir()) / "events.jsonl")
    seen = False
    why = ""
    while True:
        found = _monitor(proc)
        if found is None and (seen or _has_errors(logs)):
            raise MonitorError(f"Ray's autoscaler has ended: {_last_words(logs)}")
        if found is not None:
            seen = True
            which, pid, began_s = found
            told = [e for e in events.tail(_LAST_EVENTS) if _at_s(e) > began_s - _BEGAN_WITHIN_S]
            if any((e["event"], e.get("pid")) == (WATCHING, pid) for e in told):
                return which
            why = next((str(e["error"]) for e in told[::-1] if e["event"] == LIST_FAILED), "")
        if clock() > deadline_s:
            what = "cannot list the nodes" if seen else "was not started"
            raise MonitorError(f"Ray's autoscaler {what}: {why or _last_words(logs)}")
        sleep(_LOOK_EVERY_S)


def _at_s(event: Mapping[str, Field]) -> float:
    return float(event["time"] or 0.0)


def _monitor(proc: Path) -> tuple[str, int, float] | None:
    """("v1" or "v2", process id, when it began in epoch seconds) of the monitor."""
    for folder in proc.glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
            for mark in _MONITORS:
                if mark in command:
                    which = "v2" if "/v2/" in mark else "v1"
                    return which, int(folder.name), _began_s(proc, folder)
        except OSError:
            continue
    return None


def _began_s(proc: Path, folder: Path) -> float:
    booted = re.search(r"^btime (\d+)$", (proc / "stat").read_text(), re.M)
    # The 22nd field; the second is a name in brackets that may hold blanks.
    ticks = (folder / "stat").read_text().rpartition(")")[2].split()[19]
    return float(booted[1] if booted else 0) + int(ticks) / os.sysconf("SC_CLK_TCK")


def _has_errors(logs: Path) -> bool:
    """A monitor that runs may write there too; one that does not has ended with it."""
    try:
        return (logs / "monitor.err").stat().st_size > 0
    except FileNotFoundError:
        return False


def _last_words(logs: Path) -> str:
    for name in ("monitor.err", "monitor.out", "monitor.log"):
        try:
            lines = (logs / name).read_text(errors="replace").strip().splitlines()
        except OSError:
            continue
        if lines:
            return f"{lines[-1].strip()} ({logs / name})"
    return f"{logs} says nothing"


def describe() -> str:
    """`raylambda 0.1.0 (code 1f2e3d4c), Ray 2.60.0, Python 3.11.7`.

    The code's part is of the sources as they are, since nodes get them without a commit.
    """
    try:
        ray = version("ray")
    except PackageNotFoundError:
        ray = "not installed"
    return (
        f"raylambda {_release()} (code {code_digest()}), Ray {ray}, "
        f"Python {platform.python_version()}"
    )


def code_digest() -> str:
    """Eight hex digits of the sources of this package."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(_PACKAGE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


def _release() -> str:
    """From the project file beside the package, which nodes have; else of what is installed."""
    try:
        project = tomllib.loads((_PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
        return str(project["project"]["version"])
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return version("raylambda")
