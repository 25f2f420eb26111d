"""Postal addresses: a street with a number, with or without postcode and town.

A street belongs to one split, so no address of the test split lies in a street of the train
split. A postcode or a town on its own is no address, and is used as a hard negative.
"""

import random
import string

from data.builders.names import surname
from data.builders.splits import draw_in, fold
from data.builders.texts import load_texts

_STATES = (
    "AL AZ CA CO CT FL GA IL IN KS LA MA MD MI MN MO NC NE NJ NM NV NY OH OR PA TN TX UT VA WA"
)
# {street} is a whole street name, {n} a house number, {unit} a flat.
_STREET_LINES = {
    "en": ("{n} {street}",) * 4 + ("{n} {street}, {unit}", "{unit}, {n} {street}"),
    "de": ("{street} {n}",) * 4 + ("{street} {n}{letter}", "{street} {n}/{n2}"),
    "fr": (
        "{n} {street}",
        "{n} {street}",
        "{n}, {street}",
        "{n} bis {street}",
        "{n} ter, {street}",
    ),
    "es": ("{street} {n}", "{street}, {n}", "{street}, {n}, {unit}", "{street} nº {n}"),
    "it": ("{street} {n}", "{street} {n}", "{street}, {n}", "{street} {n}/{LETTER}"),
}
_TOWN_LINES = {
    "en": (
        "{city}, {state} {zip}",
        "{city} {state} {zip}",
        "{city}, {uk}",
        "{city} {uk}",
        "{city}",
    ),
    "de": ("{code} {city}", "{code} {city}", "{code} {city}", "D-{code} {city}", "{city}"),
    "fr": ("{code} {city}", "{code} {city}", "{code} {city}", "F-{code} {city}", "{city}"),
    "es": ("{code} {city}", "{code} {city}", "{city}, {code}", "{code}, {city}", "{city}"),
    "it": ("{code} {city}", "{code} {city}", "{code} {city} ({PROVINCE})", "{city}"),
}
_UNITS = {
    "en": ("Apt {n2}", "Apt. {n2}{LETTER}", "Flat {n2}", "Unit {n2}", "Suite {n2}0", "#{n2}"),
    "es": ("{floor}º {LETTER}", "{floor}º {n2}ª", "piso {floor}", "bajo {LETTER}", "esc. {n2}"),
}
_ZONES = "AB B BS CB CF CO E EH EX G GL HU IP KT L LE LS M MK N NE NG OX PL RG S SE SW W YO".split()


def street_line(rng: random.Random, language: str, split: str) -> str:
    """Street and number in a street of `split`."""
    street = draw_in(split, lambda: _street(rng, language, split))
    pattern = rng.choice(_STREET_LINES[language])
    if "{unit}" in pattern:
        pattern = pattern.replace("{unit}", rng.choice(_UNITS[language]))
    numbers = (rng.randint(1, 29), rng.randint(1, 180), rng.randint(1, 180))
    return pattern.format(
        street=street,
        n=rng.randint(100, 9999)
        if language == "en" and rng.random() < 0.5
        else rng.choice(numbers),
        n2=rng.randint(1, 9),
        floor=rng.randint(1, 9),
        letter=rng.choice("abcdef"),
        LETTER=rng.choice("ABCDEF"),
    )


def address(rng: random.Random, language: str, split: str, between: str = ", ") -> str:
    """A whole address; `between` street and town is ", " in a sentence, a line break in a block."""
    town = rng.choice(_TOWN_LINES[language]).format(
        city=city(rng, language),
        code=postcode(rng, language),
        zip=f"{rng.randint(1000, 99950):05}",
        uk=postcode(rng, language),
        state=rng.choice(_STATES.split()),
        PROVINCE="".join(rng.sample(string.ascii_uppercase, 2)),
    )
    if between == ", " and language == "de" and rng.random() < 0.15:
        between = " in "
    elif between == ", " and language in ("fr", "it", "es") and rng.random() < 0.2:
        between = " - " if language == "it" else " "
    return f"{street_line(rng, language, split)}{between}{town}"


def city(rng: random.Random, language: str) -> str:
    return rng.choice(load_texts(language).words["cities"])


def postcode(rng: random.Random, language: str) -> str:
    """UK form for English, else five digits of the country's range."""
    if language == "en":
        inward = f"{rng.randint(1, 9)}{''.join(rng.sample('ABDEFGHJLNPQRSTUWXYZ', 2))}"
        return f"{rng.choice(_ZONES)}{rng.randint(1, 30)} {inward}"
    highest = {"de": 99998, "fr": 95880, "es": 52080, "it": 98168}[language]
    return f"{rng.randint(1000, highest):05}"


def _street(rng: random.Random, language: str, split: str) -> tuple[str, str]:
    words = load_texts(language).words
    kind = rng.choice(words["street_kinds"])
    if rng.random() < 0.6:
        base = rng.choice(words["streets"])
    else:
        base = surname(rng, language, split)
    return kind.replace("*", base), fold(base)
