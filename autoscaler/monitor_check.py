"""Is the head's autoscaler at work? Asked once, as the last of the head's start commands.

Ray starts it as a process of its own and does not look at it again: if our provider cannot be
imported, that process ends, `ray up` succeeds, `ray status` looks as ever, and no worker ever
comes.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from autoscaler.credentials import home_dir
from autoscaler.errors import MonitorError

TIMEOUT_S = 90.0
"""It answers within some seconds of its start; a busy machine may need many times that."""
_LOOK_EVERY_S = 0.2
_MONITORS = ("/autoscaler/v2/monitor.py", "/autoscaler/_private/monitor.py")
_LOGS = Path("/tmp/ray/session_latest/logs")


def wait_for_monitor(
    *,
    proc: Path = Path("/proc"),
    logs: Path = _LOGS,
    home: Path | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Waits until Ray's monitor runs and has asked Lambda for the nodes; returns its version.

    It has once the provider's state was written after the monitor began. Raises MonitorError,
    with the last line of the monitor's own errors, when it ends or does not come so far.
    """
    deadline_s = clock() + TIMEOUT_S
    state = (home or home_dir()) / "state.db"
    seen = False
    while True:
        found = _monitor(proc)
        if found is None and (seen or _has_errors(logs)):
            raise MonitorError(f"Ray's autoscaler has ended: {_last_words(logs)}")
        if found is not None:
            seen = True
            which, began_s = found
            if _written_s(state) > began_s:
                return which
        if clock() > deadline_s:
            what = "does nothing" if seen else "was not started"
            raise MonitorError(f"Ray's autoscaler {what}: {_last_words(logs)}")
        sleep(_LOOK_EVERY_S)


def _monitor(proc: Path) -> tuple[str, float] | None:
    """("v1" or "v2", when it began in epoch seconds) of the monitor's process."""
    for folder in proc.glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
            began_s = folder.stat().st_ctime
        except OSError:
            continue
        for mark in _MONITORS:
            if mark in command:
                return ("v2" if "/v2/" in mark else "v1"), began_s
    return None


def _written_s(state: Path) -> float:
    """When the state was last written, its write-ahead log included; 0 for never."""
    times = [0.0]
    for path in (state, state.with_name(state.name + "-wal")):
        try:
            times.append(os.stat(path).st_mtime)
        except FileNotFoundError:
            continue
    return max(times)


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
