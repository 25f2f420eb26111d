"""Dates as people write them, in five languages; a birthday looks like any other date."""

import random
import re
from datetime import date, timedelta

from data.builders.splits import draw_in

_MONTHS = {
    "en": "January February March April May June July August September October November December",
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre "
    "diciembre",
    "it": "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre "
    "dicembre",
}
# d m y plain, D M two digits, Y four; B the month by name, b its first three letters, o the
# English ordinal. What a language uses more often comes more often.
_FORMS = {
    "en": (
        "D/M/Y", "M/D/Y", "m/d/Y", "d/m/y", "M-D-Y", "Y-M-D", "Y-M-D", "d B Y", "B d, Y", "B d Y",
        "do B Y", "do of B Y", "b d, Y", "D-b-Y", "d b y", "D.M.Y",
    ),
    "de": (
        "D.M.Y", "D.M.Y", "D.M.Y", "d.m.Y", "d.m.y", "D.M.y", "d. B Y", "d. B Y", "D. B Y", "Y-M-D",
        "D/M/Y", "D-M-Y", "d. m. Y",
    ),
    "fr": (
        "D/M/Y", "D/M/Y", "D/M/Y", "d/m/Y", "D/M/y", "d B Y", "d B Y", "D B Y", "D-M-Y", "D.M.Y",
        "Y-M-D", "D M Y",
    ),
    "es": (
        "D/M/Y", "D/M/Y", "d/m/Y", "D/M/y", "D-M-Y", "d de B de Y", "d de B de Y", "d de B del Y",
        "D.M.Y", "Y-M-D", "d b Y",
    ),
    "it": (
        "D/M/Y", "D/M/Y", "d/m/Y", "D/M/y", "D-M-Y", "d B Y", "d B Y", "D B Y", "D.M.Y", "Y-M-D",
        "d-m-Y",
    ),
}  # fmt: skip
_PARTS = re.compile(r"\b[dmyDMYBb]o?\b")
_FIRST_BIRTHDAY = date(1936, 1, 1)
_LAST_BIRTHDAY = date(2009, 12, 31)
_FIRST_PLAIN = date(1995, 1, 1)
_RECENT = date(2021, 1, 1)
_LAST_PLAIN = date(2027, 12, 31)


def draw_birthday(rng: random.Random, language: str, split: str) -> str:
    """A date of birth. Day and month may be swapped between its forms, so its key ignores
    their order."""

    def draw() -> tuple[str, str]:
        day = _day(rng, _FIRST_BIRTHDAY, _LAST_BIRTHDAY)
        low, high = sorted((day.day, day.month))
        return _write(rng.choice(_FORMS[language]), day, language), f"{day.year % 100}-{low}-{high}"

    return draw_in(split, draw)


class PlainDates:
    """Dates that are nobody's birthday, three in four of them from the last years and the next.

    One text writes all of them alike, and each is some days after the one before.
    """

    def __init__(self, rng: random.Random, language: str) -> None:
        self._rng = rng
        self._language = language
        self._form = rng.choice(_FORMS[language])
        self._day = _day(rng, _FIRST_PLAIN if rng.random() < 0.25 else _RECENT, _LAST_PLAIN)

    def draw(self) -> str:
        """The next date."""
        written = _write(self._form, self._day, self._language)
        self._day += timedelta(days=self._rng.randint(1, 60))
        return written


def month_name(rng: random.Random, language: str) -> str:
    return rng.choice(_MONTHS[language].split())


def _write(form: str, day: date, language: str) -> str:
    month = _MONTHS[language].split()[day.month - 1]
    ordinals = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd", 31: "st"}
    parts = {
        "d": str(day.day),
        "m": str(day.month),
        "y": f"{day.year % 100:02}",
        "D": f"{day.day:02}",
        "M": f"{day.month:02}",
        "Y": str(day.year),
        "B": month,
        "b": month[:3],
        "do": f"{day.day}{ordinals.get(day.day, 'th')}",
    }
    return _PARTS.sub(lambda match: parts[match[0]], form)


def _day(rng: random.Random, first: date, last: date) -> date:
    return first + timedelta(days=rng.randint(0, (last - first).days))
