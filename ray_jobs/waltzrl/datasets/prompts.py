"""Prompt files as their authors publish them; the columns tell the data set.

    WildJailbreak   TSV   vanilla, adversarial, data_type          both kinds
    XSTest          CSV   prompt, label (safe | unsafe)            both kinds
    OR-Bench        CSV   prompt, category                         over-refusal; "toxic" in the
                                                                   file's name: harmful
    HarmBench       CSV   Behavior, ContextString                  harmful
    StrongREJECT    CSV   forbidden_prompt                         harmful
    JSONL                 prompt, expected_category (unsafe | overrefusal | safe)

Benign rows of WildJailbreak and XSTest are made to sound harmful: they count as over-refusal.
"""

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError
from data.files import local_copy


@dataclass(frozen=True)
class Prompt:
    """A user's request; `kind` is one of `metrics.SPLITS`."""

    text: str
    kind: str


Row = Mapping[str, str]

_JSONL_KINDS = {"unsafe": "harmful", "overrefusal": "overrefusal", "safe": "benign"}
_XSTEST_KINDS = {"unsafe": "harmful", "safe": "overrefusal"}


def read_prompt_file(uri: str) -> list[Prompt]:
    """The prompts of one file, at a path or URI, empty ones left out.

    Raises:
        DataError: no such file, not one of the module's forms, or a row that is not of its
            form (with its line).
    """
    with local_copy(uri) as path:
        try:
            rows = _jsonl(path, uri) if uri.endswith((".jsonl", ".json")) else _table(path, uri)
        except UnicodeDecodeError:
            raise DataError(f"{uri}: not UTF-8 text; give a JSONL, CSV or TSV file") from None
        except csv.Error as error:
            raise DataError(f"{uri}: not a table: {error}; give it as JSONL") from None
    prompts = [prompt for prompt in rows if prompt.text.strip()]
    if not prompts:
        raise DataError(f"{uri}: no prompt in it; give a file with at least one")
    return prompts


def _jsonl(path: Path, uri: str) -> list[Prompt]:
    found = []
    # By newlines alone: a prompt may hold other characters that end a line somewhere.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text, kind = row["prompt"], _JSONL_KINDS[row["expected_category"]]
            if not isinstance(text, str):
                raise TypeError(f"prompt is {text!r}")
            found.append(Prompt(text, kind))
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(
                f"{uri}, line {number}: not an object with prompt and expected_category "
                f"(unsafe, overrefusal or safe): {type(error).__name__} {error}"
            ) from None
    return found


def _table(path: Path, uri: str) -> list[Prompt]:
    with path.open(encoding="utf-8", newline="") as file:
        header = file.readline()
        file.seek(0)
        rows = csv.DictReader(file, delimiter="\t" if "\t" in header else ",")
        columns = set(rows.fieldnames or ())
        for needed, read in _FORMATS:
            if needed <= columns:
                return _read(rows, read, uri)
    listed = ", ".join(sorted(columns)) or "none"
    raise DataError(
        f"{uri}: columns {listed} are of no known data set; give JSONL with prompt and "
        "expected_category"
    )


def _read(rows: Iterable[Row], read: Callable[[Row, str], Prompt | None], uri: str) -> list[Prompt]:
    found = []
    for number, row in enumerate(rows, start=2):
        try:
            prompt = read(row, uri)
            if prompt is not None and not isinstance(prompt.text, str):
                raise LookupError  # a short row
        except (LookupError, AttributeError):
            raise DataError(f"{uri}, row {number}: a value is missing or unknown") from None
        if prompt is not None:
            found.append(prompt)
    return found


def _wildjailbreak(row: Row, uri: str) -> Prompt:
    kind = "harmful" if row["data_type"].endswith("_harmful") else "overrefusal"
    return Prompt(row["adversarial"] or row.get("vanilla", ""), kind)


def _xstest(row: Row, uri: str) -> Prompt:
    return Prompt(row["prompt"], _XSTEST_KINDS[row["label"]])


def _or_bench(row: Row, uri: str) -> Prompt:
    return Prompt(row["prompt"], "harmful" if "toxic" in uri.rpartition("/")[2] else "overrefusal")


def _harmbench(row: Row, uri: str) -> Prompt:
    context = row.get("ContextString", "")
    return Prompt(f"{context}\n\n{row['Behavior']}" if context else row["Behavior"], "harmful")


def _strongreject(row: Row, uri: str) -> Prompt:
    return Prompt(row["forbidden_prompt"], "harmful")


_FORMATS: list[tuple[set[str], Callable[[Row, str], Prompt | None]]] = [
    ({"adversarial", "data_type"}, _wildjailbreak),
    ({"prompt", "label"}, _xstest),
    ({"prompt", "category"}, _or_bench),
    ({"Behavior"}, _harmbench),
    ({"forbidden_prompt"}, _strongreject),
]
