"""Labelled text: the one form in which the jobs see it, and its files.

Offsets count characters (Python's, i.e. Unicode code points), not bytes; `end` is exclusive.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pyarrow import ArrowInvalid, RecordBatch
from pyarrow.parquet import ParquetFile

from data.ai4privacy import has_its_fields, own_row
from data.errors import DataError
from data.files import local_copy, split_uri, write_lines


@dataclass(frozen=True)
class Span:
    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Document:
    """`spans` are sorted and do not overlap; `source` says where the text comes from, e.g.
    "template:en-017", "prose:with" or "user"."""

    text: str
    spans: tuple[Span, ...]
    language: str
    source: str


def read_documents(uri: str) -> list[Document]:
    """Labelled documents from a JSONL or Parquet file at a path, `file://` or `s3://` URI.

    A row has `text`, `spans` (or `labels`) as [{"start", "end", "label"}] or [[start, end, label]]
    and optionally `language`; or the field names of the ai4privacy data sets (`data.ai4privacy`).

    Raises:
        DataError: missing, unreadable, damaged or empty file, a line that is not JSON, a missing
            field, a span outside of its text, empty or overlapping another. The message names
            file and line.
    """
    documents = list(iter_documents(uri))
    if not documents:
        raise DataError(f"{uri}: no documents in it; give a file with at least one row")
    return documents


def iter_documents(uri: str) -> Iterator[Document]:
    """As `read_documents`, one after the other; an empty file gives none."""
    with local_copy(uri) as path:
        read = _parquet_rows if split_uri(uri)[1].endswith(".parquet") else _json_rows
        for where, row in read(path, uri):
            yield _document(row, where)


def write_documents(documents: Iterable[Document], path: str | Path) -> str:
    """Write JSONL at a path or URI, the same bytes for the same documents, whole or not at all;
    returns its sha256 in hexadecimal."""
    return write_lines(str(path), (_line(document) for document in documents)).sha256


def _line(document: Document) -> bytes:
    row = {
        "text": document.text,
        "spans": [[span.start, span.end, span.label] for span in document.spans],
        "language": document.language,
        "source": document.source,
    }
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _json_rows(path: Path, uri: str) -> Iterator[tuple[str, dict[str, object]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{uri}, line {number}"
            try:
                row = json.loads(line)
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: {error.reason}; write the file as UTF-8") from None
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{where}: not JSON ({error}); write one JSON object a line"
                ) from None
            if not isinstance(row, dict):
                raise DataError(f"{where}: not a JSON object; write one JSON object a line")
            yield where, row


def _parquet_rows(path: Path, uri: str) -> Iterator[tuple[str, dict[str, object]]]:
    try:
        batches = ParquetFile(path).iter_batches(batch_size=1024)
    except (ArrowInvalid, OSError):
        raise DataError(f"{uri}: not a Parquet file; write it again or give JSONL") from None
    number = 0
    while (batch := _next_batch(batches, f"{uri}, behind row {number}")) is not None:
        for row in batch.to_pylist():
            number += 1
            yield f"{uri}, row {number}", row


def _next_batch(batches: Iterator[RecordBatch], where: str) -> RecordBatch | None:
    try:
        return next(batches, None)
    except (ArrowInvalid, OSError) as error:
        raise DataError(
            f"{where}: damaged ({' '.join(str(error).split())}); write or copy it again"
        ) from None


def _document(row: dict[str, object], where: str) -> Document:
    try:
        if has_its_fields(row):
            row = own_row(row)
        text = row["text"]
        listed = row["labels"] if "labels" in row and "spans" not in row else row["spans"]
    except KeyError as error:
        raise DataError(
            f"{where}: no field {error}; a row needs text and spans "
            f"(start, end, label), or ai4privacy's source_text and privacy_mask"
        ) from None
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    text = _checked_text(text, where)
    if not isinstance(listed, list):
        raise DataError(f"{where}: spans is {type(listed).__name__}; give a list, [] for none")
    spans = sorted((_span(item, where) for item in listed), key=lambda span: span.start)
    _check(spans, text, where)
    language, source = str(row.get("language") or ""), str(row.get("source") or "user")
    return Document(text, tuple(spans), language, source)


def _checked_text(text: object, where: str) -> str:
    if not isinstance(text, str):
        raise DataError(f"{where}: text is {type(text).__name__}; give a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = f"half a surrogate pair at character {error.start}"
        raise DataError(f"{where}: text holds {shown}; write the file as UTF-8") from None
    return text


def _span(item: object, where: str) -> Span:
    match item:
        case {"start": start, "end": end, "label": str(label)} | [start, end, str(label)] if label:
            # Not isinstance: JSON's true is an int of Python's.
            if type(start) is int and type(end) is int:
                return Span(start, end, label)
    raise DataError(
        f"{where}: span {json.dumps(item, default=str)} is neither "
        f'{{"start": 0, "end": 4, "label": "PERSON"}} nor [0, 4, "PERSON"]'
    )


def _check(spans: list[Span], text: str, where: str) -> None:
    before = Span(0, 0, "")
    for span in spans:
        shown = f"{where}: span {span.label} [{span.start}, {span.end})"
        if span.start < 0 or span.end > len(text):
            raise DataError(
                f"{shown} is outside of the text of {len(text)} characters; offsets count "
                f"characters from 0, not bytes"
            )
        if span.start >= span.end:
            raise DataError(f"{shown} is empty; end is exclusive and must be above start")
        if span.start < before.end:
            raise DataError(
                f"{shown} overlaps {before.label} [{before.start}, {before.end}); keep one of them"
            )
        before = span
