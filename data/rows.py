"""Rows of a file of any common kind, told by its first bytes and not by its name.

    JSON Lines, a JSON array    UTF-8, with or without a byte order mark
    Parquet                     also a Hugging Face data set's, with the names of its tags
    CSV                         a header with a column `text`
    CoNLL                       a token and its tag a line, blank lines between texts
    gzip, Zstandard             around any of these but Parquet
    a folder                    all its files of these kinds, in order of their names

A row is (where, values): `where` names file and line for messages.
"""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow
from pyarrow import ArrowInvalid, RecordBatch
from pyarrow.parquet import ParquetFile

from data.errors import DataError
from data.files import files_of, local_copy

Row = dict[str, object]

_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_PARQUET = b"PAR1"
_UTF8_MARK = b"\xef\xbb\xbf"
_OTHER_ENCODINGS = (b"\xff\xfe", b"\xfe\xff")
_HEAD_BYTES = 1 << 16
_LIST = "write one JSON object a line, or one list of objects"
TAG_NAMES = "tag_names"
"""Field of a row whose tags are numbers: the name of each."""


def iter_rows(uri: str) -> Iterator[tuple[str, Row]]:
    """The rows of a file or of a local folder's files, one after the other.

    Raises:
        DataError: missing, unreadable or damaged file, one of no known kind, a line that is no
            row; the message names file and line.
    """
    for file in files_of(uri):
        yield from _file_rows(file)


def _file_rows(uri: str) -> Iterator[tuple[str, Row]]:
    with local_copy(uri) as path:
        with path.open("rb") as file:
            head = file.read(len(_PARQUET))
        # A damaged one has nothing but its name; text under that name is read as what it is.
        is_called_parquet = path.suffix.lower() == ".parquet" and head[:1] not in (b"{", b"[")
        if head == _PARQUET or is_called_parquet:
            yield from _parquet_rows(path, uri)
            return
        with _opened(path, uri) as file:
            yield from _text_rows(file, uri)


@contextmanager
def _opened(path: Path, uri: str) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked where they are compressed."""
    with path.open("rb") as raw:
        head = raw.read(4)
        raw.seek(0)
        kind = next((name for magic, name in _COMPRESSIONS.items() if head.startswith(magic)), None)
        if kind is None:
            yield raw
            return
        try:
            yield io.BufferedReader(pyarrow.CompressedInputStream(raw, kind))
        except (ArrowInvalid, OSError) as error:
            raise DataError(
                f"{uri}: damaged {kind} file ({' '.join(str(error).split())}); write it again"
            ) from None


def _text_rows(file: BinaryIO, uri: str) -> Iterator[tuple[str, Row]]:
    head = file.readline(_HEAD_BYTES)
    if head.startswith(_OTHER_ENCODINGS):
        raise DataError(f"{uri}, line 1: UTF-16; write the file as UTF-8")
    lines = chain([head.removeprefix(_UTF8_MARK)], file)
    first = head.removeprefix(_UTF8_MARK).strip()
    while not first and (line := next(lines, None)) is not None:
        first = line.strip()
        lines = chain([line], lines) if first else lines
    if first.startswith(b"[") and not first.startswith(b"[]"):
        return _json_array(b"".join(lines), uri)
    if _is_csv(first):
        return _csv_rows(lines, uri)
    if _is_conll(first):
        return _conll_rows(lines, uri)
    return _json_lines(lines, uri)


def _json_lines(lines: Iterator[bytes], uri: str) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{uri}, line {number}"
        row = _parsed(line, where, "write one JSON object a line")
        if not isinstance(row, dict):
            raise DataError(f"{where}: not a JSON object; write one JSON object a line")
        yield where, row


def _json_array(content: bytes, uri: str) -> Iterator[tuple[str, Row]]:
    for number, row in enumerate(_parsed(content, f"{uri}, line 1", _LIST), start=1):
        where = f"{uri}, row {number}"
        if not isinstance(row, dict):
            raise DataError(f"{where}: not a JSON object; {_LIST}")
        yield where, row


def _parsed(content: bytes, where: str, fix: str) -> Any:
    try:
        return json.loads(content)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: {error.reason}; write the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}); {fix}") from None


def _decoded(lines: Iterator[bytes], uri: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{uri}, line {number}: {error.reason}; write the file as UTF-8"
            ) from None


def _is_csv(first: bytes) -> bool:
    """A header: names, one of them `text`, between commas."""
    names = [name.strip().strip(b'"') for name in first.split(b",")]
    return len(names) > 1 and b"text" in names


def _csv_rows(lines: Iterator[bytes], uri: str) -> Iterator[tuple[str, Row]]:
    reader = csv.DictReader(_decoded(lines, uri))
    try:
        for row in reader:
            where = f"{uri}, line {reader.line_num}"
            if None in row or None in row.values():
                raise DataError(f"{where}: other columns than the header names; quote the text")
            yield where, dict(row)
    except csv.Error as error:
        raise DataError(f"{uri}, line {reader.line_num}: not CSV ({error})") from None


def _is_conll(first: bytes) -> bool:
    """A token and its tag, with whatever columns are between them."""
    parts = first.split()
    tag = parts[-1] if len(parts) > 1 else b""
    return first.startswith(b"-DOCSTART-") or tag == b"O" or tag[:2] in (b"B-", b"I-")


def _conll_rows(lines: Iterator[bytes], uri: str) -> Iterator[tuple[str, Row]]:
    tokens: list[str] = []
    tags: list[str] = []
    begun = 1
    for number, line in enumerate(chain(_decoded(lines, uri), [""]), start=1):
        parts = line.split()
        if parts and not line.startswith(("-DOCSTART-", "# ")):
            if len(parts) < 2:
                raise DataError(f"{uri}, line {number}: a token without a tag")
            tokens.append(parts[0])
            tags.append(parts[-1])
            continue
        if tokens:
            yield f"{uri}, line {begun}", {"tokens": tokens, "ner_tags": tags}
        tokens, tags, begun = [], [], number + 1


def _parquet_rows(path: Path, uri: str) -> Iterator[tuple[str, Row]]:
    try:
        file = ParquetFile(path)
        batches = file.iter_batches(batch_size=1024)
    except (ArrowInvalid, OSError):
        raise DataError(f"{uri}: not a Parquet file; write it again or give JSONL") from None
    names = _names_of_tags(file)
    number = 0
    while (batch := _next_batch(batches, f"{uri}, behind row {number}")) is not None:
        for row in batch.to_pylist():
            number += 1
            yield f"{uri}, row {number}", {**row, TAG_NAMES: names} if names else row


def _names_of_tags(file: ParquetFile) -> list[str] | None:
    """Of a Hugging Face data set, whose metadata has the names of integer tags."""
    text = (file.schema_arrow.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(text)["info"]["features"] if text else {}
        return next(f["feature"]["names"] for n, f in features.items() if n in TAG_FIELDS)
    except (StopIteration, KeyError, TypeError, ValueError):
        return None


TAG_FIELDS = ("ner_tags", "tags", "labels")


def _next_batch(batches: Iterator[RecordBatch], where: str) -> RecordBatch | None:
    try:
        return next(batches, None)
    except (ArrowInvalid, OSError) as error:
        raise DataError(
            f"{where}: damaged ({' '.join(str(error).split())}); write or copy it again"
        ) from None
