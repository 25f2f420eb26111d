"""Numbers that identify a person or an account: phones, cards, IBANs, IPs, national IDs.

Each function draws until the value belongs to the asked split. Check digits are right where the
number has any: Luhn for cards, ISO 7064 for IBANs, and each country's own for national IDs.
"""

import ipaddress
import random
import string
from functools import cache

from faker import Faker

from data.builders.splits import draw_in, fold

_ALPHABETS = {
    "#": string.digits,
    "%": "23456789",
    "?": string.ascii_uppercase,
    "^": "0123456789abcdef",
}


def fill(rng: random.Random, pattern: str) -> str:
    """`pattern` with "#" a digit, "%" a digit from 2, "?" a capital, "^" a hexadecimal digit."""
    return "".join(rng.choice(_ALPHABETS[c]) if c in _ALPHABETS else c for c in pattern)


# Patterns for `fill`.
_PHONES = {
    "en": (
        "(%##) %##-####", "%##-%##-####", "%##.%##.####", "+1 %## %## ####", "+1-%##-%##-####",
        "+1 (%##) %##-####", "1-%##-%##-####", "%## %## ####", "+1%##%######", "%##%######",
        "07### ######", "07### ### ###", "07#########", "+44 7### ######", "+44 7#########",
        "020 7### ####", "+44 20 7### ####", "+44 (0)1## ### ####", "01%## ######", "0161 ### ####",
    ),
    "de": (
        "+49 17# %######", "+49 15# ########", "017# %######", "017#/%######", "0151 ########",
        "0151-########", "+49 30 %#######", "030 %#######", "030/%######", "(089) %######",
        "089 %## ## ##", "+49 (0)40 %######", "0221-%#####", "0%### %####", "0%###/%####-##",
        "+4917########", "004915########", "+43 664 %######", "+41 79 %## ## ##",
    ),
    "fr": (
        "06 ## ## ## ##", "07 ## ## ## ##", "01 %# ## ## ##", "04 ## ## ## ##", "06.##.##.##.##",
        "02.##.##.##.##", "06########", "01########", "+33 6 ## ## ## ##", "+33 (0)1 %# ## ## ##",
        "+336########", "0033 6 ## ## ## ##", "05-##-##-##-##", "+32 4## ## ## ##",
    ),
    "es": (
        "6## ### ###", "6## ## ## ##", "7## ### ###", "6########", "91# ### ###", "93 ### ## ##",
        "+34 6## ### ###", "+34 6########", "+34 91 ### ## ##", "0034 6## ### ###", "95# ## ## ##",
        "6##-###-###", "(+34) 6## ## ## ##", "+52 55 #### ####",
    ),
    "it": (
        "3## ### ####", "3## #######", "3#########", "3##/#######", "3##-#######", "02 %######",
        "06 %### ####", "011 %######", "+39 3## ### ####", "+39 3## #######", "+393#########",
        "+39 02 %### ####", "0039 3## #######", "081-%######",
    ),
}  # fmt: skip
_CARD_TYPES = ("visa16", "visa16", "mastercard", "mastercard", "amex", "discover")
_IBAN_LOCALES = {"en": "en_GB", "de": "de_DE", "fr": "fr_FR", "es": "es_ES", "it": "it_IT"}
_NEIGHBOURS = ("en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL", "de_AT", "pl_PL", "de_CH")
_DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
_NINO_LETTERS = "ABCEGHJKLMNOPRSTWXYZ"
_NINO_UNUSED = frozenset(("BG", "GB", "NK", "KN", "TN", "NT", "ZZ"))


@cache
def _faker(locale: str) -> Faker:
    return Faker(locale)


def _faker_with(rng: random.Random, locale: str) -> Faker:
    """Faker drawing from `rng`, so that a document depends on nothing but its own seed."""
    faker = _faker(locale)
    faker.random = rng
    return faker


def draw_phone(rng: random.Random, language: str, split: str) -> str:
    """National or international form; one in twenty is a foreign number. Key: last 7 digits."""

    def draw() -> tuple[str, str]:
        country = rng.choice(tuple(_PHONES)) if rng.random() < 0.05 else language
        pattern = rng.choice(_PHONES[country])
        value = fill(rng, pattern)
        return value, fold(value)[-7:]

    return draw_in(split, draw)


def draw_card(rng: random.Random, split: str) -> str:
    """Plain, in groups, or joined by hyphens."""

    def draw() -> tuple[str, str]:
        value = _faker_with(rng, "en_US").credit_card_number(rng.choice(_CARD_TYPES))
        return value, value

    digits = draw_in(split, draw)
    cuts = (4, 10) if len(digits) == 15 else (4, 8, 12)
    groups = [digits[a:b] for a, b in zip((0, *cuts), (*cuts, len(digits)), strict=True)]
    return rng.choice(("", " ", " ", "-")).join(groups)


def draw_iban(rng: random.Random, language: str, split: str) -> str:
    """The language's country or, one in six, a neighbour's; plain or in groups of four."""

    def draw() -> tuple[str, str]:
        abroad = rng.random() < 1 / 6
        locale = rng.choice(_NEIGHBOURS) if abroad else _IBAN_LOCALES[language]
        value = _faker_with(rng, locale).iban()
        return value, fold(value)

    iban = draw_in(split, draw)
    if rng.random() < 0.45:
        return iban
    return " ".join(iban[i : i + 4] for i in range(0, len(iban), 4))


def draw_ip(rng: random.Random, split: str) -> str:
    """IPv4 (seven in ten; half of them private) or IPv6, full or shortened."""

    def draw() -> tuple[str, str]:
        if rng.random() < 0.7:
            prefix = rng.choice(((10,), (192, 168), (172, rng.randint(16, 31)), (), (), ()))
            first = () if prefix else (rng.randint(11, 223),)
            parts = (*prefix, *first, *(rng.randint(0, 255) for _ in range(4)))[:4]
            value = ".".join(map(str, parts))
            return value, value
        head = rng.choice((0x20010DB8, 0x2A020908, 0x2A010E0A, 0xFE800000, 0x26001700))
        tail = rng.getrandbits(rng.choice((16, 64, 96)))
        address = ipaddress.IPv6Address(head << 96 | tail)
        written = address.exploded if rng.random() < 0.2 else address.compressed
        return written, address.exploded

    return draw_in(split, draw)


def draw_national_id(rng: random.Random, language: str, split: str) -> str:
    """SSN or NINO, Steuer-ID, NIR, DNI/NIE, Codice Fiscale, as their holders write them."""

    def draw() -> tuple[str, str]:
        value = _NATIONAL_IDS[language](rng)
        return value, fold(value)

    return draw_in(split, draw)


def _ssn_or_nino(rng: random.Random) -> str:
    if rng.random() < 0.55:
        ssn = str(_faker_with(rng, "en_US").ssn())
        return ssn.replace("-", rng.choice(("-", "-", "-", " ", "")))
    prefix = ""
    while not prefix or prefix in _NINO_UNUSED or prefix[1] == "O":
        prefix = rng.choice(_NINO_LETTERS) + rng.choice(_NINO_LETTERS)
    joint = rng.choice((" ", ""))
    pairs = (f"{rng.randint(0, 99):02}" for _ in range(3))
    return joint.join((prefix, *pairs, rng.choice("ABCD")))


def _steuer_id(rng: random.Random) -> str:
    """Ten digits of which exactly one comes twice, and a check digit after ISO 7064 MOD 11,10."""
    twice, *others = rng.sample(string.digits, 9)
    digits = [twice, twice, *others]
    rng.shuffle(digits)
    while digits[0] == "0":
        rng.shuffle(digits)
    product = 10
    for digit in digits:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    number = "".join(digits) + str((11 - product) % 10)
    if rng.random() < 0.5:
        return number
    return f"{number[:2]} {number[2:5]} {number[5:8]} {number[8:]}"


def _nir(rng: random.Random) -> str:
    number = _faker_with(rng, "fr_FR").ssn()
    if rng.random() < 0.4:
        return number
    cuts = (0, 1, 3, 5, 7, 10, 13, 15)
    return " ".join(number[a:b] for a, b in zip(cuts, cuts[1:], strict=False))


def _dni_or_nie(rng: random.Random) -> str:
    # Faker's own draws from the global generator, whatever its seed.
    if rng.random() < 0.3:
        first, number = rng.randint(0, 2), rng.randint(0, 9_999_999)
        letter = _DNI_LETTERS[(first * 10_000_000 + number) % 23]
        return rng.choice(("{}{:07}{}", "{}{:07}{}", "{}-{:07}-{}")).format(
            "XYZ"[first], number, letter
        )
    number = rng.randint(100_000, 99_999_999)
    letter = _DNI_LETTERS[number % 23]
    dotted = f"{number:010,}".replace(",", ".")
    return rng.choice(
        (f"{number:08}{letter}",) * 2 + (f"{number:08}-{letter}", f"{dotted}-{letter}")
    )


def _codice_fiscale(rng: random.Random) -> str:
    code = _faker_with(rng, "it_IT").ssn()
    spaced = f"{code[:3]} {code[3:6]} {code[6:11]} {code[11:]}"
    return rng.choice((code, code, code, spaced))


_NATIONAL_IDS = {
    "en": _ssn_or_nino,
    "de": _steuer_id,
    "fr": _nir,
    "es": _dni_or_nie,
    "it": _codice_fiscale,
}
