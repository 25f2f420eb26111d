"""Surface categories: what a tokenizer drops."""

import numpy as np
import pytest

from ray_jobs.pii.features import N_SURFACE, surface_categories

TOUCHES, SPACE, LINE = 0, 4, 8
NO_LETTER, LOWER, CAPITALISED, UPPER = range(4)


def categories(text: str, *offsets: tuple[int, int]) -> list[int]:
    return surface_categories(text, np.array(offsets, dtype=np.int32).reshape(-1, 2)).tolist()


def test_gaps_before_tokens():
    text = "ab cd\n\nef.gh"
    found = categories(text, (0, 2), (3, 5), (7, 9), (9, 10), (10, 12))
    assert found == [
        LINE + LOWER,
        SPACE + LOWER,
        LINE + LOWER,
        TOUCHES + NO_LETTER,
        TOUCHES + LOWER,
    ]


@pytest.mark.parametrize(
    "token,case",
    [("zoë", LOWER), ("Zoë", CAPITALISED), ("Z", CAPITALISED), ("IBAN", UPPER), ("iPad", UPPER)]
    + [("007", NO_LETTER), ("-", NO_LETTER), ("🎈", NO_LETTER), ("a1", LOWER), ("1A", UPPER)],
)
def test_letter_case(token, case):
    assert categories(token, (0, len(token))) == [LINE + case]


def test_no_token_no_category():
    assert categories("abc") == []
    assert surface_categories("A b", np.array([[0, 1], [2, 3]])).max() < N_SURFACE
