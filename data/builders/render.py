"""A template with its slots filled: text and the spans of what was filled in."""

import random
import re
from dataclasses import dataclass, field

from data.builders import addresses, dates, identifiers, names
from data.builders.negatives import negative

TYPES = (
    "PERSON",
    "EMAIL",
    "PHONE",
    "ADDRESS",
    "DATE_OF_BIRTH",
    "CREDIT_CARD",
    "IBAN",
    "IP_ADDRESS",
    "NATIONAL_ID",
    "USERNAME",
)
SLOT = re.compile(r"\{([A-Z_]+|[a-z]+4?)([0-9]?)\}")
_CHOICE = re.compile(r"\[\[(.*?)\]\]", re.DOTALL)
_TABULAR = frozenset(("form", "record", "log", "invoice"))
# Slots that are another way to write a type.
_LABELS = {
    "FIRST": "PERSON",
    "LAST": "PERSON",
    "STREET": "ADDRESS",
    "ADDRESS_BLOCK": "ADDRESS",
}


@dataclass(frozen=True)
class Piece:
    """A stretch of text; `label` is None outside of slots and for hard negatives."""

    text: str
    label: str | None


@dataclass
class Scene:
    """The values of one template: the same slot twice is the same value, and a person's e-mail
    address and user name may follow the name."""

    rng: random.Random
    language: str
    split: str
    genre: str
    _dates: dates.PlainDates | None = None
    _people: dict[str, names.Person] = field(default_factory=dict)
    _values: dict[tuple[str, str], str] = field(default_factory=dict)

    def fill(self, text: str) -> list[Piece]:
        """`text` with its choices made and its slots filled."""
        text = _CHOICE.sub(lambda match: self.rng.choice(match[1].split("|")), text)
        pieces: list[Piece] = []
        end = 0
        for match in SLOT.finditer(text):
            pieces.append(Piece(text[end : match.start()], None))
            pieces.append(self._piece(match[1], match[2]))
            end = match.end()
        pieces.append(Piece(text[end:], None))
        return [piece for piece in pieces if piece.text]

    def _piece(self, slot: str, index: str) -> Piece:
        if (slot, index) not in self._values:
            self._values[slot, index] = self._draw(slot, index)
        return Piece(self._values[slot, index], label_of(slot))

    def _draw(self, slot: str, index: str) -> str:
        if slot == "date":
            self._dates = self._dates or dates.PlainDates(self.rng, self.language)
            return self._dates.draw()
        if slot.islower():
            return negative(self.rng, slot, self.language, self.split)
        if slot in ("PERSON", "FIRST", "LAST", "EMAIL", "USERNAME"):
            return self._personal(slot, self._person(index))
        return self._impersonal(slot)

    def _person(self, index: str) -> names.Person:
        if index not in self._people:
            self._people[index] = names.draw_person(self.rng, self.language, self.split)
        return self._people[index]

    def _personal(self, slot: str, person: names.Person) -> str:
        if slot == "FIRST":
            return person.first
        if slot == "LAST":
            return person.last
        if slot == "EMAIL":
            return names.draw_email(self.rng, person, self.language, self.split)
        if slot == "USERNAME":
            return names.draw_username(self.rng, person, self.split)
        tabular = self.genre in _TABULAR
        write = names.write_name_for_form if tabular else names.write_name
        return write(self.rng, person, self.language, self.split)

    def _impersonal(self, slot: str) -> str:
        rng, language, split = self.rng, self.language, self.split
        match slot:
            case "PHONE":
                return identifiers.draw_phone(rng, language, split)
            case "ADDRESS":
                return addresses.address(rng, language, split)
            case "ADDRESS_BLOCK":
                return addresses.address(rng, language, split, between="\n")
            case "STREET":
                return addresses.street_line(rng, language, split)
            case "DATE_OF_BIRTH":
                return dates.draw_birthday(rng, language, split)
            case "CREDIT_CARD":
                return identifiers.draw_card(rng, split)
            case "IBAN":
                return identifiers.draw_iban(rng, language, split)
            case "IP_ADDRESS":
                return identifiers.draw_ip(rng, split)
            case "NATIONAL_ID":
                return identifiers.draw_national_id(rng, language, split)
            case _:
                raise ValueError(f"unknown slot {slot!r}")


def label_of(slot: str) -> str | None:
    """The span type of a slot; None for a hard negative."""
    return None if slot.islower() else _LABELS.get(slot, slot)
