"""Bytes on their way: counted and hashed, in bounded memory, whole or not at all."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from data.storage.problems import Progress

CHUNK_BYTES = 10 << 20
# pyarrow uploads parts of 10 MiB in the background without a bound; a flush waits for them.
# It comes at a multiple of their size, so that a failed one leaves none for the close to send.
FLUSH_EVERY_BYTES = 60 << 20
PARTIAL_SUFFIX = ".partial"


@dataclass(frozen=True)
class FileRecord:
    """What a manifest says of a file."""

    size_bytes: int
    sha256: str


class Writable(Protocol):
    def write(self, data: bytes | memoryview, /) -> int | None: ...
    def flush(self) -> None: ...


class HashingWriter:
    """A write-only binary file that passes on in chunks what it is given."""

    def __init__(self, stream: Writable, progress: Progress) -> None:
        self._stream = stream
        self._progress = progress
        self._hash = hashlib.sha256()
        self._unflushed = 0
        self.size_bytes = 0
        self.error: OSError | None = None

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
        return FileRecord(self.size_bytes, self._hash.hexdigest())


class HashingReader:
    def __init__(self, stream: BinaryIO, progress: Progress) -> None:
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
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; becomes `path`, on disk, when the block ends well."""
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
