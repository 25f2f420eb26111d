"""People: names from Faker's lists, and the e-mail addresses and user names they choose.

Every word of a name belongs to one split (`splits.split_of`), so a person of the test split
shares neither first name nor surname, nor a half of a double name, with one of the train split.
"""

import importlib
import random
import re
import string
from dataclasses import dataclass
from functools import cache

from data.builders.splits import draw_in, fold, split_of

_LOCALES = {
    "en": ("en_US", "en_GB", "en_IE", "en_NZ"),
    "de": ("de_DE", "de_AT", "de_CH"),
    "fr": ("fr_FR", "fr_BE", "fr_CH", "fr_CA"),
    "es": ("es_ES", "es_MX", "es_CO", "es_AR"),
    "it": ("it_IT",),
    "international": ("en_IN", "nl_NL", "pl_PL", "pt_BR", "tr_TR", "sv_SE"),
}
_INTERNATIONAL_SHARE = 0.12
_FREEMAIL = {
    "en": ("gmail.com", "yahoo.com", "outlook.com", "hotmail.co.uk", "icloud.com", "aol.com"),
    "de": ("gmx.de", "web.de", "t-online.de", "gmail.com", "posteo.de", "freenet.de"),
    "fr": ("orange.fr", "free.fr", "laposte.net", "gmail.com", "sfr.fr", "hotmail.fr"),
    "es": ("gmail.com", "hotmail.es", "yahoo.es", "telefonica.net", "outlook.es"),
    "it": ("libero.it", "gmail.com", "virgilio.it", "tiscali.it", "alice.it", "hotmail.it"),
}
_TLDS = {
    "en": ("com", "co.uk", "org", "net", "io"),
    "de": ("de", "com", "at", "ch"),
    "fr": ("fr", "com", "be", "org"),
    "es": ("es", "com", "mx", "org"),
    "it": ("it", "com", "eu", "org"),
}
_PARTICLES = frozenset(
    "de del della di da du la le las los lo van von der den ten zu y e d".split()
)
_NAME = re.compile(r"[^\W\d_]{2,}(?:[ '’-][^\W\d_]+)*")
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"})
_SYLLABLES = (
    "ar bel cor dan el fin gra hal ix jun kor lum mar nov or pel quin ras sol tem ur vel wex yor "
    "zan bri cas dor fel gil hov kal lin mon nex pra ril sto tri van"
).split()


@dataclass(frozen=True)
class Person:
    """`last` is the surname as signed: one word, a hyphenated pair or, in Spain, two words."""

    first: str
    last: str


def name_words(name: str) -> list[str]:
    """Folded words of a name that identify: without particles such as "de" and initials."""
    words = [fold(word) for word in re.split(r"[\s'’.,-]+", name)]
    return [word for word in words if len(word) > 1 and word not in _PARTICLES]


@cache
def _names(group: str, split: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """First names and surnames of Faker's locales whose words all belong to `split`, sorted."""
    firsts: set[str] = set()
    lasts: set[str] = set()
    for locale in _LOCALES[group]:
        provider = importlib.import_module(f"faker.providers.person.{locale}").Provider
        for attribute in ("first_names", "first_names_male", "first_names_female"):
            listed = getattr(provider, attribute, ())
            firsts.update(() if isinstance(listed, property) else listed)
        lasts.update(provider.last_names)
    return _of_split(firsts, split), _of_split(lasts, split)


def _of_split(names: set[str], split: str) -> tuple[str, ...]:
    whole = (name for name in names if _NAME.fullmatch(name))
    return tuple(
        sorted(
            n for n in whole if name_words(n) and {split_of(w) for w in name_words(n)} == {split}
        )
    )


def draw_person(rng: random.Random, language: str, split: str) -> Person:
    """A person of `split`; 12 % bear names from elsewhere."""
    group = "international" if rng.random() < _INTERNATIONAL_SHARE else language
    firsts, lasts = _names(group, split)
    last = rng.choice(lasts)
    chance = rng.random()
    if group == "es" and chance < 0.6:
        last = f"{last} {rng.choice(lasts)}"
    elif chance < 0.04:
        last = f"{last}-{rng.choice(lasts)}"
    return Person(rng.choice(firsts), last)


def surname(rng: random.Random, language: str, split: str) -> str:
    """One surname of `split`, for firms and streets named after a family."""
    return rng.choice(_names(language, split)[1])


def write_name(rng: random.Random, person: Person, language: str, split: str) -> str:
    """The person's whole name in one of the forms that occur in running text."""
    first, last = person.first, person.last
    chance = rng.random()
    if chance < 0.05:
        return f"{first} {rng.choice(string.ascii_uppercase)}. {last}"
    if chance < 0.09:
        return f"{first} {rng.choice(_names(language, split)[0])} {last}"
    if chance < 0.14:
        return f"{first[0]}. {last}"
    if chance < 0.20 and language in ("fr", "it"):
        return f"{first} {last.upper()}"
    return f"{first} {last}"


def write_name_for_form(rng: random.Random, person: Person, language: str, split: str) -> str:
    """The whole name as a form or a table has it: at times surname first."""
    if rng.random() < 0.25:
        last = person.last.upper() if rng.random() < 0.4 else person.last
        return f"{last}{', ' if rng.random() < 0.7 else ' '}{person.first}"
    return write_name(rng, person, language, split)


def invented_word(rng: random.Random) -> str:
    """A pronounceable word that means nothing, for firms, domains and products."""
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.choice((2, 2, 3))))


def domain(rng: random.Random, language: str) -> str:
    """The domain of an invented firm."""
    suffix = rng.choice(("", "", "", "-group", "-online", "shop", "soft"))
    return f"{invented_word(rng)}{suffix}.{rng.choice(_TLDS[language])}"


def draw_email(rng: random.Random, person: Person, language: str, split: str) -> str:
    """An address of `person`; three in ten do not give the name away."""

    def draw() -> tuple[str, str]:
        local = _handle(rng) if rng.random() < 0.3 else _local_part(rng, person)
        host = rng.choice(_FREEMAIL[language]) if rng.random() < 0.6 else domain(rng, language)
        return f"{local}@{host}", fold(f"{local}{host}")

    return draw_in(split, draw)


def draw_username(rng: random.Random, person: Person, split: str) -> str:
    """A user name, from the person's name or from a word; without a leading "@"."""

    def draw() -> tuple[str, str]:
        value = _name_handle(rng, person) if rng.random() < 0.5 else _handle(rng)
        return value, fold(value)

    return draw_in(split, draw)


@cache
def _ascii(name: str) -> str:
    return fold(name.casefold().translate(_UMLAUTS))


def _ascii_pair(person: Person) -> tuple[str, str]:
    return _ascii(person.first), _ascii(person.last.split(" ")[0])


def _number(rng: random.Random) -> str:
    return rng.choice(
        (str(rng.randint(1, 99)), str(rng.randint(1950, 2012)), f"{rng.randint(0, 999):03}")
    )


def _local_part(rng: random.Random, person: Person) -> str:
    first, last = _ascii_pair(person)
    stem = rng.choice(
        (
            f"{first}.{last}",
            f"{first}.{last}",
            f"{first}_{last}",
            f"{first}{last}",
            f"{first[0]}.{last}",
            f"{first[0]}{last}",
            f"{last}.{first}",
            f"{last}{first[0]}",
            f"{first}-{last}",
            first,
        )
    )
    numbered = rng.random() < (0.9 if stem == first else 0.35)
    joint = rng.choice(("", "", ".", "_"))
    return f"{stem}{joint}{_number(rng)}" if numbered else stem


def _name_handle(rng: random.Random, person: Person) -> str:
    first, last = _ascii_pair(person)
    stem = rng.choice(
        (
            f"{first}{last}",
            f"{first}_{last}",
            f"{first[0]}{last}",
            f"{first}.{last[0]}",
            f"{last}_{first[0]}",
            f"{last}{first[:2]}",
            f"xx{first}xx",
            f"the_{first}",
        )
    )
    return f"{stem}{rng.choice(('', '_', '-', '.'))}{_number(rng)}" if rng.random() < 0.6 else stem


def _handle(rng: random.Random) -> str:
    colours = (
        "dark blue red silent lucky tiny wild lost crazy neon rusty solar cosmic mister".split()
    )
    things = (
        "wolf panda rider coder fox moon runner tiger ninja gamer pixel cloud raven bike".split()
    )
    word = f"{rng.choice(colours)}{rng.choice(('', '_', '-', '.'))}{rng.choice(things)}"
    word = word if rng.random() < 0.6 else f"{rng.choice(things)}{invented_word(rng)}"
    if rng.random() < 0.15:
        word = word.title()
    return f"{word}{rng.choice(('', '_'))}{_number(rng)}" if rng.random() < 0.75 else word
