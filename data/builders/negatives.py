"""Hard negatives: what looks like personal data and is none.

`{order}` in a template is a value of the kind "order". Dates are in `dates.PlainDates`. The
values need no split of their own, as they carry no label; a firm's family name has one.
"""

import random
import re
from collections.abc import Callable

from data.builders.addresses import city, postcode
from data.builders.dates import month_name
from data.builders.identifiers import fill
from data.builders.names import domain, invented_word, surname
from data.builders.texts import load_texts

_DECIMAL_COMMA = ("de", "fr", "es", "it")


def negative(rng: random.Random, kind: str, language: str, split: str) -> str:
    """A value of `kind`, such as "order", "version" or "company".

    Raises:
        KeyError: no such kind.
    """
    if kind == "company":
        return _company(rng, language, split)
    if kind in _LOCAL:
        return _LOCAL[kind](rng, language)
    if kind == "percent":
        return str(rng.randint(1, 99))
    if kind == "number":
        return str(rng.choice((rng.randint(2, 20), rng.randint(21, 400))))
    return _from_pattern(rng, kind)


def _company(rng: random.Random, language: str, split: str) -> str:
    """A firm, one in four called after a family of the split."""
    stem = invented_word(rng).capitalize()
    if rng.random() < 0.25:
        stem = surname(rng, language, split)
    return f"{stem} {rng.choice(load_texts(language).words['firms'])}"


def _product(rng: random.Random, language: str) -> str:
    name = rng.choice(load_texts(language).words["products"])
    return name + fill(rng, rng.choice((" ?###", " %", " Pro", "", "")))


def _price(rng: random.Random, language: str) -> str:
    whole, cents = rng.choice((rng.randint(2, 99), rng.randint(100, 9999))), rng.randint(0, 99)
    if language in _DECIMAL_COMMA:
        grouped = f"{whole:,}".replace(",", "." if language != "fr" else " ")
        return f"{grouped},{cents:02} {rng.choice(('€', '€', 'EUR'))}"
    return f"{rng.choice(('$', '£', '$', 'USD '))}{whole:,}.{cents:02}"


def _time(rng: random.Random, language: str) -> str:
    hour, minute = rng.randint(0, 23), rng.choice((0, 0, 15, 30, 45, rng.randint(0, 59)))
    if language == "en" and rng.random() < 0.5:
        return f"{hour % 12 or 12}:{minute:02} {'am' if hour < 12 else 'pm'}"
    return (
        f"{hour}h{minute:02}" if language == "fr" and rng.random() < 0.6 else f"{hour}:{minute:02}"
    )


def _weekday(rng: random.Random, language: str) -> str:
    return rng.choice(load_texts(language).words["weekdays"])


def _url(rng: random.Random, language: str) -> str:
    path = rng.choice(("docs", "help", "shop/item", "status", "blog", "download", "faq"))
    tail = rng.choice(("", f"/{rng.randint(1, 9999)}", f"?id={rng.randint(1, 99999)}", ".html"))
    return f"{rng.choice(('https://', 'https://www.', 'www.'))}{domain(rng, language)}/{path}{tail}"


_LOCAL: dict[str, Callable[[random.Random, str], str]] = {
    "city": city,
    "month": month_name,
    "postcode": postcode,
    "price": _price,
    "product": _product,
    "time": _time,
    "url": _url,
    "weekday": _weekday,
}
# Patterns for `identifiers.fill`; "@" is a year and "*" a number up to 30.
_PATTERNS: dict[str, tuple[str, ...]] = {
    "ean": ("#############",),
    "firmware": ("*.*.*.*",),
    "hash": ("^^^^^^^", "^^^^^^^^", "^^^^^^^^^^^^", "^" * 32),
    "invoice": ("INV-@-####", "R-@-####", "RE-@-####", "F-@-####", "INV%#####"),
    "isbn": ("978-#-####-####-#",),
    "last4": ("####",),
    "mac": ("^^:^^:^^:^^:^^:^^",),
    "order": (
        "??-######",
        "#%####",
        "%#######",
        "@-#####",
        "###-#######",
        "ORD#######",
        "%#########",
        "?####/##",
    ),
    "room": ("?###", "%.##", "%##"),
    "serial": ("SN??########",),
    "ticket": ("INC#######", "REQ-####", "TCK-######", "CS#######", "SUP-####", "INC-######"),
    "tracking": ("1Z???#############", "??#########DE", "00340###############", "############"),
    "version": ("*.*.*", "v*.*", "v*.*.*", "*.*", "*.*.*-rc%", "@.%"),
    "year": ("@",),
}


def _from_pattern(rng: random.Random, kind: str) -> str:
    pattern = re.sub(r"\*", lambda _: str(rng.randint(0, 30)), rng.choice(_PATTERNS[kind]))
    return fill(rng, pattern).replace("@", str(rng.randint(1998, 2028)))
