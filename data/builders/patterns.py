"""Numbers and codes from patterns such as "??-######"."""

import random
import string

_ALPHABETS = {
    "#": string.digits,
    "%": "23456789",
    "?": string.ascii_uppercase,
    "^": "0123456789abcdef",
}


def fill(rng: random.Random, pattern: str) -> str:
    """`pattern` with "#" a digit, "%" a digit from 2, "?" a capital, "^" a hexadecimal digit."""
    return "".join(rng.choice(_ALPHABETS[c]) if c in _ALPHABETS else c for c in pattern)
