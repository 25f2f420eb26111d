"""The written material of one language: templates, openings and closings, field labels, words.

`texts/LANGUAGE.txt` is a list of sections, each headed by `=== KIND NAME`:

    === train email            a template of a split and a genre; the text follows, any lines
    === openings train         one opening a line ("\\n" breaks a line)
    === closings train
    === sentences train        one sentence a line           for notes composed at random
    === fields train           SLOT: label | label | ...     for records composed at random
    === words cities           word | word | ...             over any number of lines

In a template `{PERSON}` is a labelled slot and `{order}` a hard negative (see `render.Scene`);
a digit tells two of a kind apart: `{PERSON2}` is somebody else, and owns `{EMAIL2}`.
`[[a|b]]` is one of a or b.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

LANGUAGES = ("en", "de", "fr", "es", "it")
GENRES = frozenset(
    "email chat ticket form log contract medical invoice record spoken letter paragraph "
    "negative".split()
)
_HEADER = re.compile(r"=== (\w+) (\w+)")
_LISTS = ("openings", "closings", "sentences", "fields", "words")


@dataclass(frozen=True)
class Template:
    id: str
    split: str
    genre: str
    text: str


@dataclass(frozen=True)
class Texts:
    """One language. `openings`, `closings` by split; `fields`: slot to labels; `words` by list."""

    language: str
    templates: tuple[Template, ...]
    openings: dict[str, tuple[str, ...]]
    closings: dict[str, tuple[str, ...]]
    sentences: tuple[str, ...]
    fields: dict[str, tuple[str, ...]]
    words: dict[str, tuple[str, ...]]

    def of_split(self, split: str) -> tuple[Template, ...]:
        return tuple(t for t in self.templates if t.split == split)


def source_bytes(language: str) -> bytes:
    """The file itself, for a digest."""
    return (files("data.builders") / "texts" / f"{language}.txt").read_bytes()


@cache
def load_texts(language: str) -> Texts:
    """Parse a language's file once.

    Raises:
        ValueError: a section has an unknown genre or stands before any header.
    """
    templates: list[Template] = []
    lists: dict[str, dict[str, list[str]]] = {kind: defaultdict(list) for kind in _LISTS}
    for kind, name, lines in _sections(source_bytes(language).decode()):
        if kind in lists:
            lists[kind][name].extend(line for line in lines if line)
        elif name in GENRES:
            number = f"{language}-{len(templates) + 1:03}"
            templates.append(Template(number, kind, name, "\n".join(lines).strip()))
        else:
            raise ValueError(f"{language}.txt: unknown genre {name!r}")
    fields = (line.split(":", 1) for line in lists["fields"]["train"])
    return Texts(
        language,
        tuple(templates),
        {split: _unescaped(lines) for split, lines in lists["openings"].items()},
        {split: _unescaped(lines) for split, lines in lists["closings"].items()},
        tuple(lists["sentences"]["train"]),
        {slot.strip(): _choices(labels) for slot, labels in fields},
        {name: _choices("|".join(lines)) for name, lines in lists["words"].items()},
    )


def _sections(text: str) -> list[tuple[str, str, list[str]]]:
    sections: list[tuple[str, str, list[str]]] = []
    for line in text.splitlines():
        header = _HEADER.fullmatch(line)
        if header:
            sections.append((header[1], header[2], []))
        elif sections:
            sections[-1][2].append(line)
        elif line and not line.startswith("#"):
            raise ValueError(f"text before the first header: {line!r}")
    return sections


def _unescaped(lines: list[str]) -> tuple[str, ...]:
    return tuple(line.replace("\\n", "\n") for line in lines)


def _choices(line: str) -> tuple[str, ...]:
    return tuple(choice.strip() for choice in line.split("|") if choice.strip())
