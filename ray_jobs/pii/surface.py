"""What a tokenizer drops of the text: letter case, and what stands before a token.

An uncased host model sees neither capitals nor line breaks, nor whether two tokens touch.
Every token gets one of `N_SURFACE` categories, which a probe reads as a one-hot input beside
its features: the same for latents and raw activations.
"""

import numpy as np

_TOUCHES, _SPACE, _LINE = range(3)
_NO_LETTER, _LOWER, _CAPITALISED, _UPPER = range(4)
N_SURFACE = 12
"""Three kinds of gap times four kinds of case."""


def surface_categories(text: str, offsets: np.ndarray) -> np.ndarray:
    """Categories (T,) int64 in [0, N_SURFACE) of tokens with character offsets (T, 2)."""
    categories = np.empty(len(offsets), dtype=np.int64)
    end_before = 0
    for number, (start, end) in enumerate(offsets.tolist()):
        if number == 0 or "\n" in text[end_before:start]:
            gap = _LINE
        else:
            gap = _SPACE if start > end_before else _TOUCHES
        categories[number] = 4 * gap + _case(text[start:end])
        end_before = end
    return categories


def _case(token: str) -> int:
    """A single capital counts as a capitalised word; mixed case as upper case."""
    if token.islower():
        return _LOWER
    if token == token.lower():
        return _NO_LETTER
    return _CAPITALISED if len(token) == 1 or token[1:] == token[1:].lower() else _UPPER
