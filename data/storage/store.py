"""A directory on a disk or under a bucket's prefix, read and written with checks and retries.

pyarrow's own `copy_files` loses upload errors, so it is not used.
"""

import errno
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import pyarrow.fs as pafs

from data.errors import CorruptFileError, StorageError
from data.storage.filesystem import build_filesystem, pinned, resolve_endpoint
from data.storage.location import Location, parse_location
from data.storage.problems import NO_BUCKET, storage_error
from data.storage.transfer import (
    CHUNK_BYTES,
    PARTIAL_SUFFIX,
    FileRecord,
    HashingReader,
    HashingWriter,
    TransferProgress,
    atomic_file,
    default_retry_s,
    local_problems,
    with_retries,
)

T = TypeVar("T")


class Store:
    """Files by relative POSIX names, in a directory of a disk or a bucket.

    Every method raises StorageError, one line that names the file, the reason and the fix: at
    once for a permanent problem, after RAYLAMBDA_STORAGE_RETRY_S (120) without progress for a
    transient one. A store pickles as its location alone, with the endpoint and region of the
    process that pickles it; each process reads credentials from its own environment.
    """

    def __init__(self, location: Location, retry_s: float | None = None) -> None:
        self._location = location
        self._retry_s = retry_s
        self._filesystem: pafs.FileSystem | None = None

    @staticmethod
    def open(uri: str, retry_s: float | None = None) -> "Store":
        """The store at a path, `file:///...` or `s3://bucket/path`; contacts no server.

        Raises:
            StorageError: the URI is malformed.
        """
        return Store(parse_location(uri), retry_s)

    def __reduce__(self) -> tuple[Callable[..., "Store"], tuple[Location, float | None]]:
        return Store, (pinned(self._location), self._retry_s)

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Store) and other._location == self._location

    def __hash__(self) -> int:
        return hash(self._location)

    @property
    def uri(self) -> str:
        return self._location.uri

    @property
    def label(self) -> str:
        """For messages: the path, or the URI without its query."""
        return self._location.label

    @property
    def is_local(self) -> bool:
        return self._location.kind == "file"

    def child(self, *parts: str) -> "Store":
        child = Store(self._at("/".join(parts)), self._retry_s)
        child._filesystem = self._filesystem
        return child

    def write_stream(self, name: str, produce: Callable[[HashingWriter], object]) -> FileRecord:
        """Store what `produce` writes; it is called again, from the start, on each retry.

        On a disk the file appears atomically. Should `produce` itself fail, no truncated file
        stays under the name.
        """
        at = self._at(name)

        def attempt(progress: TransferProgress) -> FileRecord:
            record = self._write_once(at, produce, progress)
            stored = self._info(at).size
            if stored != record.size_bytes:
                short = f"{stored} bytes are stored of {record.size_bytes} written"
                raise OSError(errno.EIO, short)
            return record

        return self._retry(attempt, "write", at)

    def write_bytes(self, name: str, data: bytes) -> FileRecord:
        return self.write_stream(name, lambda out: out.write(data))

    def upload(self, local: Path, name: str) -> FileRecord:
        """Store a local file in chunks, hashed on the way."""

        def produce(out: HashingWriter) -> None:
            with local_problems("read", local):
                source = local.open("rb")
            with source:
                while chunk := _read_local(source, local):
                    out.write(chunk)

        return self.write_stream(name, produce)

    def write_json(self, name: str, value: Any) -> FileRecord:
        return self.write_bytes(name, json.dumps(value, indent=1, sort_keys=True).encode())

    def read_bytes(self, name: str, record: FileRecord | None = None) -> bytes:
        """The file's content.

        Raises:
            CorruptFileError: a `record` is given, and the file is missing or differs from it.
        """
        pieces: list[bytes] = []

        def consume(chunks: Iterator[bytes]) -> None:
            pieces[:] = list(chunks)

        self._read(name, record, consume)
        return b"".join(pieces)

    def read_json(self, name: str, record: FileRecord | None = None) -> Any:
        """The parsed file. Raises also CorruptFileError when it is not JSON."""
        data = self.read_bytes(name, record)
        try:
            return json.loads(data)
        except ValueError as error:
            raise CorruptFileError(f"{self._at(name).label} is not JSON; restore it") from error

    def fetch(self, name: str, local: Path, record: FileRecord | None = None) -> None:
        """Copy the file to `local`, which appears atomically and verified. Errors as for
        `read_bytes`."""
        with local_problems("write", local), atomic_file(local) as partial:

            def consume(chunks: Iterator[bytes]) -> None:
                with local_problems("write", local), partial.open("wb") as out:
                    for chunk in chunks:
                        out.write(chunk)

            self._read(name, record, consume)

    def exists(self, name: str) -> bool:
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is no file of that name."""
        at = self._at(name)
        info = self._retry(lambda _: self._info(at), "look at", at)
        return info.size if info.type == pafs.FileType.File else None

    def files(self, prefix: str = "") -> list[str]:
        """Names of all files below the directory `prefix`, sorted, relative to this store."""
        infos = self._list(prefix, recursive=True)
        names = [self._name(info) for info in infos if info.type == pafs.FileType.File]
        return sorted(name for name in names if not name.endswith(PARTIAL_SUFFIX))

    def directories(self) -> list[str]:
        """Names of the directories directly in this store, sorted."""
        infos = self._list("", recursive=False)
        return sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)

    def delete(self, name: str) -> None:
        """Delete a file. Idempotent."""
        at = self._at(name)
        self._retry(lambda _: _if_there(self._fs.delete_file, at.path), "delete", at)

    def delete_tree(self, name: str) -> None:
        """Delete the directory `name`, "" for the store's own, and all below it. Idempotent."""
        at = self._at(name) if name else self._location
        self._retry(lambda _: _if_there(self._fs.delete_dir, at.path), "delete", at)

    @property
    def _fs(self) -> pafs.FileSystem:
        if self._filesystem is None:
            self._filesystem = build_filesystem(self._location, self._budget_s)
        return self._filesystem

    @property
    def _budget_s(self) -> float:
        return default_retry_s() if self._retry_s is None else self._retry_s

    def _at(self, name: str) -> Location:
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise StorageError(f"{name!r} is not a relative name within a store; correct it")
        return self._location.child(name)

    def _name(self, info: pafs.FileInfo) -> str:
        return info.path.removeprefix(self._location.path).lstrip("/")

    def _info(self, at: Location) -> pafs.FileInfo:
        return self._fs.get_file_info(at.path)

    def _retry(self, attempt: Callable[[TransferProgress], T], doing: str, at: Location) -> T:
        endpoint = resolve_endpoint(at) if at.kind == "s3" else None
        return with_retries(
            attempt,
            doing=doing,
            where=at.label,
            server=endpoint[1] if endpoint else None,
            retry_s=self._budget_s,
        )

    def _write_once(
        self, at: Location, produce: Callable[[HashingWriter], object], progress: TransferProgress
    ) -> FileRecord:
        if at.kind == "file":
            with atomic_file(Path(at.path)) as partial:
                return self._stream_to(str(partial), produce, progress)
        return self._stream_to(at.path, produce, progress)

    def _stream_to(
        self, path: str, produce: Callable[[HashingWriter], object], progress: TransferProgress
    ) -> FileRecord:
        with self._fs.open_output_stream(path) as stream:
            out = HashingWriter(stream, progress)
            try:
                produce(out)
            except BaseException:
                if out.error is not None:
                    raise out.error from None
                # Closing a stream publishes what it holds: a truncated object on S3.
                stream.close()
                self._fs.delete_file(path)
                raise
        return out.record()

    def _read(
        self, name: str, record: FileRecord | None, consume: Callable[[Iterator[bytes]], None]
    ) -> None:
        at = self._at(name)

        def attempt(progress: TransferProgress) -> None:
            try:
                stream = self._fs.open_input_stream(at.path)
            except FileNotFoundError as error:
                if record is None:
                    raise
                raise CorruptFileError(f"{at.label} is missing; restore it") from error
            with stream:
                reader = HashingReader(stream, progress)
                consume(reader.chunks())
            if record is not None and reader.record() != record:
                raise CorruptFileError(_difference(at, reader.record(), record))

        self._retry(attempt, "read", at)

    def _list(self, prefix: str, recursive: bool) -> list[pafs.FileInfo]:
        at = self._at(prefix) if prefix else self._location

        def attempt(_: TransferProgress) -> list[pafs.FileInfo]:
            selector = pafs.FileSelector(at.path, allow_not_found=True, recursive=recursive)
            found = self._fs.get_file_info(selector)
            if not found and at.kind == "s3":
                self._require_bucket(at)
            return found

        return self._retry(attempt, "list", at)

    def _require_bucket(self, at: Location) -> None:
        """A missing bucket lists as an empty one: a mistyped name would read as "no files yet"."""
        if self._fs.get_file_info(at.bucket).type == pafs.FileType.NotFound:
            raise storage_error("list", at.label, NO_BUCKET)


def _read_local(source: BinaryIO, local: Path) -> bytes:
    with local_problems("read", local):
        return source.read(CHUNK_BYTES)


def _if_there(delete: Callable[[str], None], path: str) -> None:
    with suppress(FileNotFoundError):
        delete(path)


def _difference(at: Location, found: FileRecord, record: FileRecord) -> str:
    if found.size_bytes != record.size_bytes:
        what = f"has {found.size_bytes} bytes instead of {record.size_bytes}"
    else:
        what = f"has sha256 {found.sha256[:12]}... instead of {record.sha256[:12]}..."
    return f"{at.label} {what}; restore or delete it"
