"""Labelled text: the one form in which the jobs see it, and its files.

Offsets count characters (Python's, i.e. Unicode code points), not bytes; `end` is exclusive.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.ai4privacy import has_its_fields, own_row
from data.errors import DataError
from data.files import write_lines
from data.labels import (
    SPAN_FIELDS,
    TEXT_FIELDS,
    Label,
    contradiction,
    has_tags,
    span_list,
    tagged_row,
)
from data.rows import Row, iter_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Span:
    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Document:
    """`spans` are sorted and do not overlap; `source` says where the text comes from, e.g.
    "template:en-017", "prose:with" or "user". What is found on `ignored` spans counts neither way
    when a detector is scored."""

    text: str
    spans: tuple[Span, ...]
    language: str
    source: str
    ignored: tuple[Span, ...] = ()


def read_documents(uri: str) -> list[Document]:
    """Labelled documents from a file at a path, `file://` or `s3://` URI, or from a local folder.

    The kinds of files are those of `data.rows`. A row has `text`, `spans` in a form of
    `data.labels` and optionally `language` and `ignore`, a list of spans too; tokens and tags; or
    the field names of the ai4privacy data sets (`data.ai4privacy`). Blanks at a span's edges are
    trimmed, of spans given twice or one inside another the longer stays; how many is logged in
    one line.

    Raises:
        DataError: missing, unreadable, damaged or empty file, a line that is no row, a missing
            field, a span outside of its text, empty, overlapping another or saying another text
            than it marks. The message names file and line.
    """
    documents = list(iter_documents(uri))
    if not documents:
        raise DataError(f"{uri}: no documents in it; give a file with at least one row")
    return documents


def iter_documents(uri: str) -> Iterator[Document]:
    """As `read_documents`, one after the other; an empty file gives none."""
    tidied: Counter[str] = Counter()
    for where, row in iter_rows(uri):
        yield _document(row, where, tidied)
    if tidied:
        counts = "; ".join(f"{number:,} {what}" for what, number in tidied.items())
        logger.warning("data   %s: %s", uri, counts)


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
    if document.ignored:
        row["ignore"] = [[span.start, span.end, span.label] for span in document.ignored]
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _document(row: Row, where: str, tidied: "Counter[str]") -> Document:
    try:
        if has_its_fields(row):
            row = own_row(row)
        elif has_tags(row):
            row = tagged_row(row)
        text = _field(row, TEXT_FIELDS)
        labels = span_list(_field(row, SPAN_FIELDS))
        without = span_list(row.get("ignore"))
    except KeyError as error:
        raise DataError(
            f"{where}: no field {error}; a row needs text and spans (start, end, label), tokens "
            f"and ner_tags, or ai4privacy's source_text and privacy_mask"
        ) from None
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    text = _checked_text(text, where)
    for label in (*labels, *without):
        _check_label(label, text, where)
    spans = _tidy([_trimmed(label, text, where, tidied) for label in labels], where, tidied)
    ignored = [_trimmed(label, text, where, tidied) for label in without]
    language, source = str(row.get("language") or ""), str(row.get("source") or "user")
    return Document(text, tuple(spans), language, source, tuple(ignored))


def _field(row: Row, names: Sequence[str]) -> object:
    """The first of the fields that the row has. Raises KeyError with the first name."""
    for name in names:
        if name in row:
            return row[name]
    raise KeyError(names[0])


def _checked_text(text: object, where: str) -> str:
    if not isinstance(text, str):
        raise DataError(f"{where}: text is {type(text).__name__}; give a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = f"half a surrogate pair at character {error.start}"
        raise DataError(f"{where}: text holds {shown}; write the file as UTF-8") from None
    return text


def _check_label(label: Label, text: str, where: str) -> None:
    """Refuse what lies outside of the text, or claims another text than it marks."""
    start, end = label.start, label.end
    shown = f"{where}: span {label.label} [{start}, {end})"
    if start < 0 or end > len(text):
        raise DataError(
            f"{shown} is outside of the text of {len(text)} characters; offsets count "
            f"characters from 0, not bytes"
        )
    if start >= end:
        raise DataError(f"{shown} is empty; end is exclusive and must be above start")
    if problem := contradiction(label, text):
        raise DataError(f"{where}: {problem}")


def _trimmed(label: Label, text: str, where: str, tidied: "Counter[str]") -> Span:
    """Without blanks at the edges: what finds spans trims them too, and would never agree."""
    marked = text[label.start : label.end]
    start = label.start + len(marked) - len(marked.lstrip())
    end = label.end - (len(marked) - len(marked.rstrip()))
    if start >= end:
        raise DataError(f"{where}: span {label.label} [{label.start}, {label.end}) is only blanks")
    if (start, end) != (label.start, label.end):
        tidied["spans with blanks at their edges, trimmed"] += 1
    if start and text[start - 1].isalnum() and text[start].isalnum():
        tidied["spans that begin inside a word: do the offsets count characters?"] += 1
    return Span(start, end, label.label)


def _tidy(spans: list[Span], where: str, tidied: "Counter[str]") -> list[Span]:
    """Sorted; of spans that are alike or lie one in another the longer, the first."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        before = kept[-1] if kept else Span(0, 0, "")
        if span.start >= before.end:
            kept.append(span)
        elif span == before:
            tidied["spans given twice, dropped"] += 1
        elif span.end <= before.end:
            tidied["spans inside another, dropped"] += 1
        else:
            raise DataError(
                f"{where}: span {span.label} [{span.start}, {span.end}) overlaps {before.label} "
                f"[{before.start}, {before.end}); keep one of them"
            )
    return kept
