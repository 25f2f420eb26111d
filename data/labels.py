"""The span lists of labelled rows, in the forms that data sets and tools write.

[[0, 4, "PERSON"]]                                                  ours
[{"start": 0, "end": 4, "label": "PERSON"}]                         also with `text` or `value`
[{"entity_type": "PERSON", "start_position": 0, "end_position": 4}] Presidio's
[{"category": "private_person", "start": 0, "end": 4}]              OpenAI Privacy Filter's
{"start": [0], "end": [4], "label": ["PERSON"]}                     a dict of lists
the same as a string of JSON or of Python; tokens with BIO tags
"""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data.rows import TAG_FIELDS, TAG_NAMES

TEXT_FIELDS = ("text", "full_text")
SPAN_FIELDS = ("spans", "labels", "label", "entities")
_STARTS = ("start", "start_position", "begin")
_ENDS = ("end", "end_position")
_LABELS = ("label", "entity_type", "category", "type")
_VALUES = ("value", "text", "entity_value")


@dataclass(frozen=True)
class Label:
    """A span as a row has it; `value` is the text that it claims, None where it claims none."""

    start: int
    end: int
    label: str
    value: str | None = None


def span_list(listed: object) -> list[Label]:
    """The labels of a row's span field; null is none.

    Raises:
        ValueError: another form, in one line.
    """
    if listed is None:
        return []
    listed = parsed(listed)
    if isinstance(listed, Mapping):
        columns = [listed.get(name) for name in listed]
        if not all(isinstance(column, list) for column in columns):
            raise ValueError("spans is dict; give a list, [] for none")
        rows = zip(*columns, strict=True)
        listed = [dict(zip(listed, row, strict=True)) for row in rows]
    if not isinstance(listed, list):
        raise ValueError(f"spans is {type(listed).__name__}; give a list, [] for none")
    return [read_label(item) for item in listed]


def parsed(value: object) -> object:
    """A string of JSON or of Python as what it says; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        pass
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        raise ValueError(f"labels cannot be read: {value[:60]!r}") from None


def read_label(item: object) -> Label:
    """One span. Raises ValueError for another form."""
    item = parsed(item) if isinstance(item, str) else item
    if isinstance(item, Mapping):
        start, end, label, value = (
            next((item[name] for name in names if name in item), None)
            for names in (_STARTS, _ENDS, _LABELS, _VALUES)
        )
    elif isinstance(item, Sequence) and len(item) == 3:
        (start, end, label), value = map(_number, item), None
    else:
        start = end = label = value = None
    start, end = _whole(start), _whole(end)
    if start is None or end is None or not isinstance(label, str) or not label:
        raise ValueError(
            f"span {json.dumps(item, default=str)} is neither "
            f'{{"start": 0, "end": 4, "label": "PERSON"}} nor [0, 4, "PERSON"]'
        )
    return Label(start, end, label, value if isinstance(value, str) else None)


def _number(value: object) -> object:
    """A list of one type, as Parquet has them, holds its offsets as strings."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _whole(value: object) -> int | None:
    # Not isinstance: JSON's true is an int of Python's.
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def contradiction(label: Label, text: str) -> str | None:
    """What is wrong, with a guess why, where a span claims another text than it marks."""
    start, end, value = label.start, label.end, label.value
    marked = text[start:end]
    if value is None or value.strip() == marked.strip():
        return None
    wide = text.encode("utf-16-le")[2 * start : 2 * end]
    if wide.decode("utf-16-le", "replace") == value:
        guess = ": UTF-16 offsets? Give offsets in characters"
    elif text.encode()[start:end].decode(errors="replace") == value:
        guess = ": offsets in bytes? Give offsets in characters"
    elif value in text:
        guess = f", which begins at {text.index(value)}"
    else:
        guess = ", which is nowhere in the text"
    return f"text[{start}:{end}] is {marked!r}, but its span says {value!r}{guess}"


def has_tags(row: Mapping[str, object]) -> bool:
    """Whether the row is made of tokens with tags."""
    return "tokens" in row and any(name in row for name in TAG_FIELDS)


def tagged_row(row: Mapping[str, object]) -> dict[str, object]:
    """A row of tokens with BIO tags as text, joined with one blank, and spans of it.

    Raises:
        ValueError: tokens and tags of other kinds or numbers; integer tags without their names.
    """
    tokens = parsed(row["tokens"])
    tags = parsed(next(row[name] for name in TAG_FIELDS if name in row))
    if not isinstance(tokens, list) or not isinstance(tags, list) or len(tokens) != len(tags):
        raise ValueError("tokens and their tags are not two lists of one length")
    names = next((row[n] for n in (TAG_NAMES, "label_names", "names") if row.get(n)), None)
    spans: list[list[object]] = []
    position, before = 0, "O"
    for token, tag in zip(tokens, tags, strict=True):
        name = _tag_name(tag, names)
        label = name[2:] if name[:2] in ("B-", "I-", "E-", "S-", "L-", "U-") else name
        end = position + len(str(token))
        if name == "O":
            label = "O"
        elif spans and name[:2] in ("I-", "E-", "L-") and before == label:
            spans[-1][1] = end
        else:
            spans.append([position, end, label])
        position, before = end + 1, label
    rest = {key: value for key, value in row.items() if key not in ("tokens", *TAG_FIELDS)}
    return {**rest, "text": " ".join(map(str, tokens)), "spans": spans}


def _tag_name(tag: object, names: object) -> str:
    if isinstance(tag, str):
        return tag
    if type(tag) is int and isinstance(names, list) and 0 <= tag < len(names):
        return str(names[tag])
    raise ValueError(
        f"tag {tag!r} has no name; give strings such as B-PERSON, or the list {TAG_NAMES}"
    )
