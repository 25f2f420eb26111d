"""Documents of labelled personal data: one to three filled templates each.

The train split also has records and notes composed at random from field labels and sentences.

The conventions of the labels:
- PERSON is a name or a part of one standing for a person, without title ("Dr") and without "'s".
- ADDRESS has at least street and house number; a town or a postcode alone is none.
- DATE_OF_BIRTH is a date that the text says somebody was born on; other dates are negatives.
- USERNAME is without a leading "@". A firm's name is no PERSON even where it holds a surname.
"""

import json
import random
from collections.abc import Iterator

from data.builders.render import Piece, Scene
from data.builders.texts import Texts, load_texts
from data.documents import Document, Span

_SEPARATORS = (": ", ": ", ": ", " : ", " = ", "=", " - ", "\t", ":\n", " | ")
_BETWEEN = ("\n", "\n", "\n", "; ", ", ", " / ", "\n\n")


def compose_record(rng: random.Random, fields: dict[str, tuple[str, ...]]) -> str:
    """Template text of three to seven fields, in lines, as a table of one row, or as JSON.

    `fields`: slot name to the labels it may have; see `texts.Texts.fields`.
    """
    slots = rng.sample(sorted(fields), rng.randint(3, 7))
    labels = [_cased(rng, rng.choice(fields[slot])) for slot in slots]
    holes = [f"{{{slot}}}" for slot in slots]
    layout = rng.random()
    if layout < 0.12:
        return json.dumps(dict(zip(labels, holes, strict=True)), ensure_ascii=False)
    if layout < 0.24:
        joint = rng.choice((",", ";", "\t", " | "))
        return f"{joint.join(labels)}\n{joint.join(holes)}"
    separator, between = rng.choice(_SEPARATORS), rng.choice(_BETWEEN)
    return between.join(
        f"{label}{separator}{hole}" for label, hole in zip(labels, holes, strict=True)
    )


def compose_note(rng: random.Random, sentences: tuple[str, ...]) -> str:
    """Template text of one to four sentences in a row."""
    return rng.choice((" ", " ", " ", "\n")).join(rng.sample(sentences, rng.randint(1, 4)))


def _cased(rng: random.Random, label: str) -> str:
    chance = rng.random()
    if chance < 0.1:
        return label.upper()
    if chance < 0.25:
        return label.lower()
    return label.lower().replace(" ", "_") if chance < 0.3 else label


_PLAN = ("train",) * 8 + ("validation", "test")
_MESSAGE_GENRES = frozenset(("ticket", "paragraph", "spoken", "negative"))
_RECORD_SHARE = 0.15
_NOTE_SHARE = 0.2
_MORE_PARTS = {"train": (0.6, 0.9), "validation": (0.85, 1.0), "test": (0.85, 1.0)}


def pii_documents(
    split: str, seed: int, documents: int, languages: tuple[str, ...]
) -> Iterator[Document]:
    """The documents of one split, of `documents` over all splits: 80 % train, 10 % validation,
    10 % test; the languages take turns.

    A document depends on (seed, its number, its language) only. Each split goes through its
    templates in turn, so a small set has every template as well.
    """
    turn = dict.fromkeys(languages, 0)
    for number in range(documents):
        language = languages[number // len(_PLAN) % len(languages)]
        if _PLAN[number % len(_PLAN)] != split:
            continue
        rng = random.Random(f"{seed}/{split}/{language}/{number}")
        yield _document(rng, load_texts(language), split, turn[language])
        turn[language] += 1


def _document(rng: random.Random, texts: Texts, split: str, turn: int) -> Document:
    templates = texts.of_split(split)
    template = templates[turn % len(templates)]
    sources = [template.id]
    pieces = _part(rng, texts, split, template.genre, template.text)
    chance = rng.random() if split == "train" else 1.0
    if chance < _RECORD_SHARE:
        sources = [f"{texts.language}-record"]
        pieces = _part(rng, texts, split, "record", compose_record(rng, texts.fields))
    elif chance < _RECORD_SHARE + _NOTE_SHARE:
        sources = [f"{texts.language}-note"]
        pieces = _part(rng, texts, split, "paragraph", compose_note(rng, texts.sentences))
    one, two = _MORE_PARTS[split]
    chance = rng.random()
    for _ in range((chance >= one) + (chance >= two)):
        template = rng.choice(templates)
        sources.append(template.id)
        pieces.append(Piece(rng.choice(("\n\n", "\n\n", "\n")), None))
        pieces.extend(_part(rng, texts, split, template.genre, template.text))
    if split == "train":
        pieces = _recased(rng, pieces)
    return _joined(pieces, texts.language, f"template:{'+'.join(sources)}")


def _part(rng: random.Random, texts: Texts, split: str, genre: str, text: str) -> list[Piece]:
    """One template filled, at times between an opening and a closing."""
    if split == "train" and text.endswith(".") and rng.random() < 0.12:
        text = text[:-1] + rng.choice(("", "", "!", " ..."))
    if genre in _MESSAGE_GENRES:
        if rng.random() < 0.2:
            text = f"{rng.choice(texts.openings[split])}\n{text}"
        if rng.random() < 0.2:
            text = f"{text}\n{rng.choice(texts.closings[split])}"
    return Scene(rng, texts.language, split, genre).fill(text)


def _recased(rng: random.Random, pieces: list[Piece]) -> list[Piece]:
    """One document in twelve in small letters, one in thirty in capitals; piece by piece, as
    capitals can be longer ("ß")."""
    chance = rng.random()
    if chance < 1 / 12:
        return [Piece(piece.text.lower(), piece.label) for piece in pieces]
    if chance < 1 / 12 + 1 / 30:
        return [Piece(piece.text.upper(), piece.label) for piece in pieces]
    return pieces


def _joined(pieces: list[Piece], language: str, source: str) -> Document:
    spans: list[Span] = []
    start = 0
    for piece in pieces:
        end = start + len(piece.text)
        if piece.label is not None:
            spans.append(Span(start, end, piece.label))
        start = end
    return Document("".join(piece.text for piece in pieces), tuple(spans), language, source)
