"""Which split a value belongs to: a fixed function of the value alone.

The same name, street or number therefore never shows up in two splits, in whatever language
and however it is written (grouping spaces, capitals, accents).
"""

import hashlib
import unicodedata
from collections.abc import Callable

SPLITS = ("train", "validation", "test")
_FIRST_BUCKET = {"train": 0, "validation": 70, "test": 85}
_BUCKETS = 100
_MAX_DRAWS = 10_000
_NOT_DECOMPOSED = str.maketrans({"ı": "i", "ł": "l", "ø": "o", "đ": "d", "æ": "ae", "œ": "oe"})


def fold(value: str) -> str:
    """Letters and digits of `value` without capitals, accents and separators."""
    decomposed = unicodedata.normalize("NFKD", value.casefold().translate(_NOT_DECOMPOSED))
    return "".join(character for character in decomposed if character.isalnum())


def split_of(key: str) -> str:
    """Split of a value with this `fold`ed key: 70 % train, 15 % validation, 15 % test."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    bucket = int.from_bytes(digest, "big") % _BUCKETS
    return max(SPLITS, key=lambda split: (_FIRST_BUCKET[split] <= bucket, _FIRST_BUCKET[split]))


def draw_in(split: str, draw: Callable[[], tuple[str, str]]) -> str:
    """First value of `draw() -> (value, key)` whose key belongs to `split`.

    Raises:
        AssertionError: no such value in 10,000 draws: the generator is too narrow.
    """
    for _ in range(_MAX_DRAWS):
        value, key = draw()
        if split_of(key) == split:
            return value
    raise AssertionError(f"no value for split {split!r} in {_MAX_DRAWS} draws")
