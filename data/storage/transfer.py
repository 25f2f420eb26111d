"""One file on its way: hashed as it passes, retried while it makes progress, visible when complete.

`Store` does every operation through `with_retries`. A writer or reader reports the bytes that it
moved to the `TransferProgress` of the operation, so that a large file on a slow network is not
given up while it still moves.
"""

import hashlib
import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from data.errors import StorageError
from data.storage.problems import explain, storage_error

logger = logging.getLogger(__name__)
T = TypeVar("T")

RETRY_ENV = "RAYLAMBDA_STORAGE_RETRY_S"
DEFAULT_RETRY_S = 120.0
_MAX_DELAY_S = 5.0

CHUNK_BYTES = 10 << 20
# pyarrow uploads parts of 10 MiB in the background without a bound; a flush waits for them.
# It comes at a multiple of their size, so that a failed one leaves none for the close to send.
FLUSH_EVERY_BYTES = 60 << 20
PARTIAL_SUFFIX = ".partial"


def default_retry_s() -> float:
    """Seconds without progress after which an operation is given up.

    Raises:
        StorageError: RAYLAMBDA_STORAGE_RETRY_S is not a number of seconds.
    """
    text = os.environ.get(RETRY_ENV, str(DEFAULT_RETRY_S))
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise StorageError(f"{RETRY_ENV} is {text!r}; give a number of seconds >= 0")
    return value


class TransferProgress:
    """The most bytes that any attempt has moved, and when that was last exceeded."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._most_bytes = 0
        self._advanced_s = clock()

    def reached(self, size_bytes: int) -> None:
        """An attempt has moved so many bytes since it began."""
        if size_bytes > self._most_bytes:
            self._most_bytes, self._advanced_s = size_bytes, self._clock()

    def stuck_s(self) -> float:
        """Seconds since the last progress, or since the start."""
        return self._clock() - self._advanced_s


def with_retries(
    attempt: Callable[[TransferProgress], T],
    *,
    doing: str,
    where: str,
    server: str | None,
    retry_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """The result of `attempt`, which is repeated after a transient OSError, with backoff.

    `doing`, `where` and `server` word the messages: "cannot write s3://bucket/file: ...".

    Raises:
        StorageError: at once for a permanent problem (no permission, no bucket, a full disk),
            for a transient one after `retry_s` without progress. Errors of `attempt` other than
            OSError pass through.
    """
    progress, delay_s = TransferProgress(clock), 0.25
    while True:
        try:
            return attempt(progress)
        except OSError as error:
            problem, stuck_s = explain(error, server), progress.stuck_s()
            if problem.permanent or stuck_s >= retry_s:
                raise storage_error(doing, where, problem, stuck_s) from error
            logger.warning("cannot %s %s yet: %s; trying again", doing, where, problem.reason)
            sleep(min(delay_s, max(retry_s - stuck_s, 0.0)))
            delay_s = min(delay_s * 2, _MAX_DELAY_S)


@dataclass(frozen=True)
class FileRecord:
    """Size and content of a file, as a manifest states them."""

    size_bytes: int
    sha256: str
    """Lower-case hexadecimal."""


class Writable(Protocol):
    def write(self, data: bytes | memoryview, /) -> int | None: ...
    def flush(self) -> None: ...


class HashingWriter:
    """A write-only binary file that hashes what it is given and passes it on in chunks."""

    def __init__(self, stream: Writable, progress: TransferProgress) -> None:
        self._stream = stream
        self._progress = progress
        self._hash = hashlib.sha256()
        self._unflushed = 0
        self.size_bytes = 0
        self.error: OSError | None = None
        """Why the stream refused a chunk; the writer takes no more after it."""

    def write(self, data: bytes | bytearray | memoryview) -> int:
        if self.error is not None:
            raise self.error  # a serialiser that failed may still try to end its file
        view = memoryview(data).cast("B")
        start = 0
        while start < len(view):
            size = min(CHUNK_BYTES, FLUSH_EVERY_BYTES - self._unflushed)
            self._write_chunk(view[start : start + size])
            start += size
        return len(view)

    def flush(self) -> None:
        """Nothing to do: chunks are passed on at once and parts flushed on the way."""

    def _write_chunk(self, chunk: memoryview) -> None:
        self._hash.update(chunk)
        try:
            self._stream.write(chunk)
            self._unflushed += len(chunk)
            if self._unflushed == FLUSH_EVERY_BYTES:
                self._stream.flush()
                self._unflushed = 0
                self._progress.reached(self.size_bytes + len(chunk))
        except OSError as error:
            self.error = error  # serialisers replace it with an error of their own
            raise
        self.size_bytes += len(chunk)

    def record(self) -> FileRecord:
        """Of what was written so far."""
        return FileRecord(self.size_bytes, self._hash.hexdigest())


class HashingReader:
    """The chunks of a binary file, hashed as they are read."""

    def __init__(self, stream: BinaryIO, progress: TransferProgress) -> None:
        self._stream = stream
        self._progress = progress
        self._hash = hashlib.sha256()
        self._size_bytes = 0

    def chunks(self) -> Iterator[bytes]:
        while chunk := self._stream.read(CHUNK_BYTES):
            self._hash.update(chunk)
            self._size_bytes += len(chunk)
            self._progress.reached(self._size_bytes)
            yield chunk

    def record(self) -> FileRecord:
        """Of what was read so far."""
        return FileRecord(self._size_bytes, self._hash.hexdigest())


def partial_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path in the same directory to write to; when the block ends well it is synced to disk and
    takes the name `path`, else it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        yield partial
        handle = os.open(partial, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def local_problems(doing: str, local: Path) -> Iterator[None]:
    """Errors of the local side of a transfer, which no retry can fix, name the local file."""
    try:
        yield
    except OSError as error:
        raise storage_error(doing, str(local), explain(error)) from error
