"""Files of a data set, at a path, a `file://` or an `s3://` URI (with its query, if it has one)."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import DataError
from data.storage import FileRecord, Store
from data.storage.location import parse_location

_BLOCK_BYTES = 1 << 20


@contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """A local path with the file's bytes: the file itself, or a copy for the block's length.

    Raises:
        DataError: no such file, or one that may not be read.
        StorageError: the bucket does not give it.
    """
    location = parse_location(uri)
    if location.kind == "file":
        path = Path(location.path)
        try:
            if not path.is_file():
                raise DataError(f"{uri}: no such file; check the path")
            path.open("rb").close()
        except OSError as error:
            raise DataError(f"{uri}: {error.strerror}; give a file you may read") from error
        yield path
        return
    folder, name = split_uri(uri)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / name
        Store.open(folder).fetch(name, copy)
        yield copy


def files_of(uri: str) -> list[str]:
    """The file itself, or a local folder's files in order of their names, hidden ones left out.

    Raises:
        DataError: a folder without a file.
    """
    location = parse_location(uri)
    if location.kind != "file" or not os.path.isdir(location.path):
        return [uri]
    paths = sorted(
        p for p in Path(location.path).iterdir() if p.is_file() and p.name[0] not in "._"
    )
    if not paths:
        raise DataError(f"{uri}: no file in this folder; give a folder of data files")
    return [str(path) for path in paths]


def check_local_files(*uris: str | None) -> None:
    """Refuse files of this machine that cannot be read, before anything is started for them.

    None and files in a bucket pass.

    Raises:
        DataError: as for `local_copy`.
    """
    for uri in uris:
        if uri and parse_location(uri).kind == "file":
            for file in files_of(uri):
                with local_copy(file):
                    pass


def write_lines(uri: str, lines: Iterable[bytes]) -> FileRecord:
    """Write the lines, whole or not at all; returns size and sha256.

    Raises:
        StorageError: the place cannot be written.
    """
    folder, name = split_uri(uri)
    data = b"".join(lines)
    return Store.open(folder).write_bytes(name, data)


def sha256_of(uri: str) -> str:
    """Digest of the bytes of a file, or of all files of a local folder, read in blocks.

    Errors as for `local_copy` and `files_of`.
    """
    digest = hashlib.sha256()
    for each in files_of(uri):
        with local_copy(each) as path, path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def split_uri(uri: str) -> tuple[str, str]:
    """(folder, file name); an S3 query stays with the folder."""
    base, query = _without_query(uri)
    folder, _, name = base.rpartition("/")
    if not folder:
        folder = "/" if base.startswith("/") else "."
    return folder + query, name


def join_uri(folder: str, name: str) -> str:
    """The file `name` in `folder`; an S3 query moves to the end."""
    base, query = _without_query(folder)
    return f"{base.rstrip('/')}/{name}{query}"


def _without_query(uri: str) -> tuple[str, str]:
    if not uri.startswith("s3://"):
        return uri, ""
    base, mark, query = uri.partition("?")
    return base, mark + query
