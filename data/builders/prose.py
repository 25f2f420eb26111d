"""Real English prose without personal data: the help topics that ship with Python."""

import re
from functools import cache
from pydoc_data.topics import topics

from data.builders.splits import split_of
from data.documents import Document

LICENCE = "PSF-2.0 (Python's documentation, pydoc_data.topics)"
_MIN_CHARACTERS = 60
_OTHER_THAN_WORDS = re.compile(r"[^A-Za-z ]")
# What could be called personal, though only the people who wrote Python are in it.
_PERSONAL = re.compile(r"\S@\w+\.\w|\bGuido\b|\bRossum\b|\bMonty\b")


def prose_documents(split: str) -> list[Document]:
    """Paragraphs of `split`, in the order of the topics' names.

    The same paragraphs for the same Python version: the manifest records it.
    """
    return [d for d in _paragraphs() if split_of(d.text) == split]


@cache
def _paragraphs() -> tuple[Document, ...]:
    return tuple(
        Document(text, (), "en", f"prose:{name}")
        for name in sorted(topics)
        for text in (" ".join(part.split()) for part in re.split(r"\n\s*\n", topics[name]))
        if len(text) >= _MIN_CHARACTERS and _is_prose(text) and not _PERSONAL.search(text)
    )


def _is_prose(text: str) -> bool:
    """Mostly words: no code samples, grammar rules or rulers of tables."""
    others = len(_OTHER_THAN_WORDS.findall(text))
    return others < 0.15 * len(text) and not text.startswith((">>>", "|", "+-"))
