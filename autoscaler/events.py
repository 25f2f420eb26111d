"""The event log: one JSON object a line, for people and for `raylambda status`.

`~/.raylambda/events.jsonl` (0600) is appended to by every process of this machine, each line
in one write. It is kept to two files of bounded size.
"""

import json
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

MAX_FILE_BYTES = 5 * 1024 * 1024
"""About 25,000 events; one older file is kept as well."""
SELDOM_S = 60.0
"""Between two events of one kind of which there may be many."""
WATCHING, LIST_FAILED = "watching", "list-failed"
"""Events of a head's autoscaler (`pid`): it has read its first list and works; it cannot."""

Field = str | int | float | bool | None


class EventLog:
    """Thread-safe. A disk that is full loses events, never a launch or a termination."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self.clock = clock
        self._lock = threading.Lock()
        self._last_fields: dict[str, tuple[Field, ...]] = {}
        self._seldom: dict[str, tuple[float, int]] = {}

    def write(self, event: str, **fields: Field) -> None:
        """Appends one event; absent (None) fields are left out."""
        known = {name: value for name, value in fields.items() if value is not None}
        record = {"time": round(self.clock(), 3), "event": event, **known}
        line = (json.dumps(record, ensure_ascii=False) + "\n").encode()
        with self._lock:
            try:
                self._append(line)
            except OSError:
                return

    def write_change(self, topic: str, event: str, **fields: Field) -> bool:
        """Writes only if the fields differ from the last of this topic; returns whether it did.

        For what is true for a while and found again every few seconds.
        """
        found = (event, *(value for _, value in sorted(fields.items())))
        with self._lock:
            if self._last_fields.get(topic) == found:
                return False
            self._last_fields[topic] = found
        self.write(event, **fields)
        return True

    def write_seldom(self, topic: str, event: str, **fields: Field) -> bool:
        """Writes at most once in SELDOM_S for a topic; returns whether it did.

        For what recurs, each time a little different. `left_out` is how often it did since the
        last time that was written.
        """
        now_s = self.clock()
        with self._lock:
            last_s, left_out = self._seldom.get(topic, (now_s - SELDOM_S, 0))
            if 0 <= now_s - last_s < SELDOM_S:
                self._seldom[topic] = (last_s, left_out + 1)
                return False
            self._seldom[topic] = (now_s, 0)
        self.write(event, **fields, left_out=left_out or None)
        return True

    def tail(self, count: int) -> list[dict[str, Field]]:
        """The last events, oldest first; a line cut off by a crash is passed over."""
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()[-count:]
        except FileNotFoundError:
            return []
        events: list[dict[str, Field]] = []
        for line in lines:
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
        return events

    def _append(self, line: bytes) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size_bytes = os.fstat(descriptor).st_size
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
        if size_bytes + len(line) > MAX_FILE_BYTES:
            # Two processes may do this at once: the second rename then keeps a short file.
            os.replace(self.path, self.path.with_suffix(".1.jsonl"))


def utc(epoch_s: float) -> str:
    """A moment as events name it: `2026-01-31T12:00:00Z`."""
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
