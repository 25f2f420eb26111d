"""A check of a directory or bucket: can it hold checkpoints and results?

It runs the operations of the jobs, through the same `Store`, in a directory of its own that it
removes again, and reports a line for each within seconds.
"""

import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from data.errors import StorageError
from data.storage.probe import missing_directories, remove_empty
from data.storage.store import Store
from data.storage.transfer import FileRecord

RETRY_S = 6.0  # a dead server is reported within twice that
GIVE_UP_S = 12.0  # once a check has failed, no other starts later than this
LARGE_BYTES = 30 << 20  # three parts
SMALL_BYTES = 1 << 20
CONCURRENT_FILES = 8


@dataclass(frozen=True)
class Finding:
    """The outcome of one check; `problem` is None where it passed."""

    check: str
    problem: str | None
    duration_s: float
    moved_bytes: int = 0

    def line(self) -> str:
        rate = ""
        if self.problem is None and self.moved_bytes > 1:
            rate = f"{self.moved_bytes / 1e6 / self.duration_s:8.1f} MB/s"
        verdict = "ok  " if self.problem is None else "FAIL"
        text = f"{self.check:<28} {verdict} {self.duration_s:7.2f} s {rate}".rstrip()
        return text if self.problem is None else f"{text}  {self.problem}"


class Doctor:
    """The checks of one store, in order; each returns the bytes it moved or raises StorageError."""

    def __init__(self, store: Store) -> None:
        self._store = store.child(f"doctor-{secrets.token_hex(4)}")
        self._data = secrets.token_bytes(LARGE_BYTES)
        self._record: FileRecord | None = None

    def examine(self, report: Callable[[str], None]) -> bool:
        """Run the checks and report a line for each; whether all passed."""
        start, healthy = time.monotonic(), True
        try:
            for check, run in self._checks():
                finding = _measure(check, run)
                report(finding.line())
                healthy = healthy and finding.problem is None
                if not healthy and (run == self._write or time.monotonic() - start > GIVE_UP_S):
                    report("the other checks are left out")
                    return False
            return healthy
        finally:
            if self._record is not None:
                self._clean_up(report)

    def _checks(self) -> list[tuple[str, Callable[[], int]]]:
        return [
            ("write 1 byte", self._write),
            ("write 30 MB in parts", self._write_large),
            ("size", self._size),
            ("ranged read, sha256", self._read),
            ("list", self._list),
            (f"write and read, {CONCURRENT_FILES} at once", self._concurrent),
            ("delete", self._delete),
        ]

    def _write(self) -> int:
        self._record = self._store.write_bytes("small", self._data[:1])
        return 1

    def _write_large(self) -> int:
        self._record = self._store.write_bytes("large", self._data)
        return LARGE_BYTES

    def _size(self) -> int:
        size = self._store.size("large")
        if size != LARGE_BYTES:
            raise StorageError(f"{size} bytes reported for {LARGE_BYTES} written")
        return 0

    def _read(self) -> int:
        self._store.read_bytes("large", self._record)
        return LARGE_BYTES

    def _list(self) -> int:
        names = self._store.files()
        if names != ["large", "small"]:
            raise StorageError(f"the list holds {names} after writing large and small")
        return 0

    def _concurrent(self) -> int:
        def round_trip(index: int) -> None:
            data = self._data[index * SMALL_BYTES : (index + 1) * SMALL_BYTES]
            record = self._store.write_bytes(f"at-once-{index}", data)
            self._store.read_bytes(f"at-once-{index}", record)

        with ThreadPoolExecutor(CONCURRENT_FILES) as threads:
            list(threads.map(round_trip, range(CONCURRENT_FILES)))
        return 2 * CONCURRENT_FILES * SMALL_BYTES

    def _delete(self) -> int:
        self._store.delete("small")
        self._store.delete_tree("")
        left = self._store.files()
        if left:
            raise StorageError(f"{len(left)} files are still there after deleting all")
        return 0

    def _clean_up(self, report: Callable[[str], None]) -> None:
        try:
            self._store.delete_tree("")
        except StorageError as error:
            report(f"could not clean up: {error}")


def examine(uri: str, report: Callable[[str], None]) -> bool:
    """Check the location and report a line for each check, then the verdict; whether it is usable.

    Raises:
        StorageError: the URI is malformed.
    """
    store = Store.open(uri, retry_s=RETRY_S)
    made = missing_directories(Path(store.label)) if store.is_local else []
    healthy = Doctor(store).examine(report)
    remove_empty(made)
    report(
        f"{'ok' if healthy else 'FAIL'}: {store.label} "
        f"{'can' if healthy else 'cannot'} hold checkpoints and results"
    )
    return healthy


def _measure(check: str, run: Callable[[], int]) -> Finding:
    start = time.monotonic()
    try:
        moved_bytes = run()
    except StorageError as error:
        return Finding(check, str(error), time.monotonic() - start)
    return Finding(check, None, time.monotonic() - start, moved_bytes)
