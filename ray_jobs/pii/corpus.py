"""A labelled corpus in a detector's types: labels mapped, what it does not label left out.

A corpus may call a person PER, label no phone numbers, and mark stretches that count neither way.
Scored is what both sides know: the corpus's labels that are types of the detector, or are mapped
to one; found spans of types that the corpus never labels, and those on ignored stretches, are
left out.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data.documents import Document, Span
from data.errors import DataError
from ray_jobs.pii.spans import PIISpan

CONTEXT_CHARACTERS = 40


def parse_mapping(text: str) -> dict[str, str]:
    """`PER=PERSON,LOC=` as a mapping; an empty right side stands for stretches to ignore.

    Raises:
        DataError: not of that form.
    """
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not all(left.strip() and mark for left, mark, _ in pairs):
        raise DataError(f"--labels {text!r}: give theirs=ours, such as PER=PERSON,LOC=")
    return {left.strip(): right.strip() for left, _, right in pairs}


@dataclass(frozen=True)
class Corpus:
    """Documents with the detector's labels, and the types that they label."""

    documents: list[Document]
    types: frozenset[str]

    @classmethod
    def of(
        cls, documents: Sequence[Document], mapping: Mapping[str, str], types: Collection[str]
    ) -> "Corpus":
        """`types` are the detector's.

        Raises:
            DataError: a label that is no type and is not mapped, or mapped to no type; the
                message lists both sides.
        """
        labels = {span.label for document in documents for span in document.spans}
        wrong = sorted(
            label
            for label in labels
            if (target := mapping.get(label, label)) and target not in types
        )
        if wrong:
            raise DataError(
                f"the detector has no type {', '.join(wrong)}; it has {', '.join(sorted(types))}: "
                f"give --labels {','.join(f'{label}=TYPE' for label in wrong)}, or {wrong[0]}= to "
                "ignore such spans"
            )
        mapped = [_mapped(document, mapping) for document in documents]
        return cls(mapped, frozenset(s.label for d in mapped for s in d.spans))

    def counted(self, found: Sequence[Sequence[PIISpan]]) -> list[list[PIISpan]]:
        """Of the spans found in each document those that count for or against the detector."""
        return [
            [
                span
                for span in spans
                if span.label in self.types
                and (_touches(span, document.spans) or not _touches(span, document.ignored))
            ]
            for document, spans in zip(self.documents, found, strict=True)
        ]


def _mapped(document: Document, mapping: Mapping[str, str]) -> Document:
    spans = [replace(s, label=mapping.get(s.label, s.label)) for s in document.spans]
    return replace(
        document,
        spans=tuple(span for span in spans if span.label),
        ignored=(*document.ignored, *(span for span in spans if not span.label)),
    )


def _touches(span: Span | PIISpan, others: Sequence[Span | PIISpan]) -> bool:
    return any(span.start < other.end and other.start < span.end for other in others)


def errors(
    documents: Sequence[Document], found: Sequence[Sequence[PIISpan]]
) -> Iterator[dict[str, Any]]:
    """Every span that is not right, with the text around it, in order.

    missed   a true span that nothing touches
    wrong    a found span that touches nothing
    border   both, of one type, with other ends; type: with the same or other ends, of another
    """
    for number, (document, spans) in enumerate(zip(documents, found, strict=True)):
        right = {(s.start, s.end, s.label) for s in document.spans}
        got = {(s.start, s.end, s.label) for s in spans}
        for span in document.spans:
            if (span.start, span.end, span.label) in got:
                continue
            met = [other for other in spans if _touches(span, [other])]
            kind = "missed"
            if met:
                kind = "border" if any(other.label == span.label for other in met) else "type"
            yield _error(number, document, kind, span, met)
        for other in spans:
            if (other.start, other.end, other.label) not in right:
                if not _touches(other, document.spans):
                    yield _error(number, document, "wrong", None, [other])


def _error(
    number: int, document: Document, kind: str, true: Span | None, found: Sequence[PIISpan]
) -> dict[str, Any]:
    text = document.text
    first = true or found[0]
    start, end = first.start, first.end
    return {
        "document": number,
        "kind": kind,
        "true": true and {"label": true.label, "text": text[true.start : true.end]},
        "found": [{"label": s.label, "text": text[s.start : s.end]} for s in found],
        "start": start,
        "end": end,
        "before": text[max(0, start - CONTEXT_CHARACTERS) : start],
        "after": text[end : end + CONTEXT_CHARACTERS],
    }
