"""Whose leftovers are whose: a process is named so that a reused process id is not mistaken."""

import os
from pathlib import Path

_FIELDS_BEFORE_START = 19
"""In /proc/PID/stat, of the fields after the command's name (proc(5), field 22)."""


def mark_of(pid: int) -> str | None:
    """`PID.START`, where START is the process's start in clock ticks; None when there is none."""
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
    """Whether the process of this mark still runs. What is not a mark is not alive."""
    pid = mark.partition(".")[0]
    return pid.isdecimal() and mark_of(int(pid)) == mark
