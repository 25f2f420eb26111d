"""Text to tokens with character offsets, and tokens to windows that fit the host model.

No weights are read here, so that a driver without an accelerator can plan a harvest.
"""

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from data.errors import DataError
from ray_jobs.activations.host_files import first_line

# A longer context costs quadratic attention and tells a SAE little more.
MAX_WINDOW_TOKENS = 2048
_OVERLAP_SHARE = 0.25


@dataclass(frozen=True)
class Window:
    """Tokens [start, stop) of a text, run together; it answers for [keep_start, keep_stop)."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


@dataclass(frozen=True)
class TokenizedText:
    """One text as the host model sees it, special tokens excluded.

    input_ids   (n,) int64: every token
    row_tokens  (T,) int64: the tokens that stand for characters, ascending; T <= n
    offsets     (T, 2) int32: [start, end) characters of each of those, never empty, leading
                white space left out unless the token is nothing else
    windows     cover [0, n): each token is kept by exactly one window
    """

    input_ids: np.ndarray
    row_tokens: np.ndarray
    offsets: np.ndarray
    windows: list[Window]

    @property
    def n_rows(self) -> int:
        return len(self.row_tokens)


class HostTokenizer:
    """The fast tokenizer of a host model's folder.

    max_tokens    longest window, special tokens included
    prefix/suffix special token ids that stand around every window
    Errors: DataError when the folder has no fast tokenizer (only those give offsets).
    """

    def __init__(self, name: str, folder: Path, max_position_embeddings: int | None) -> None:
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            raise DataError(
                f"host model {name!r}: no usable tokenizer: {first_line(error)}"
            ) from error
        if not tokenizer.is_fast:
            raise DataError(
                f"host model {name!r}: its tokenizer gives no character offsets; "
                "a fast tokenizer (tokenizer.json) is needed"
            )
        self._tokenizer = tokenizer
        limits = [MAX_WINDOW_TOKENS, tokenizer.model_max_length, max_position_embeddings]
        self.max_tokens = int(min(limit for limit in limits if limit))
        self.prefix, self.suffix = self._special_tokens()
        self.pad_id = tokenizer.pad_token_id or 0
        if self._capacity < 4:
            raise DataError(f"host model {name!r}: a window of {self.max_tokens} tokens is too few")

    @property
    def identity(self) -> str:
        """Hex digest of all that decides tokens: the tokenizer as it was loaded, its settings
        included, the special tokens around a window, and the window's length."""
        backend = self._tokenizer.backend_tokenizer.to_str()
        around = f"{self.prefix}{self.suffix}{self.max_tokens}"
        return hashlib.sha256(f"{backend}{around}".encode()).hexdigest()

    def tokenize(self, texts: list[str]) -> list[TokenizedText]:
        """Tokens, offsets and windows of each text; an empty text has no token and no row."""
        if not texts:
            return []
        encoded = self._tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=True,  # "<s>" in a text is text
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            truncation=False,
            padding=False,
            verbose=False,
        )
        return [
            self._tokenized(text, ids, offsets)
            for text, ids, offsets in zip(
                texts, encoded["input_ids"], encoded["offset_mapping"], strict=True
            )
        ]

    def _tokenized(
        self, text: str, ids: list[int], offsets: list[tuple[int, int]]
    ) -> TokenizedText:
        spans = np.array(offsets, dtype=np.int32).reshape(-1, 2)
        row_tokens = np.flatnonzero(spans[:, 1] > spans[:, 0])
        spans = spans[row_tokens]
        for row in _rows_led_by_space(text, spans):
            start, end = spans[row]
            stripped = text[start:end].lstrip()
            if stripped:
                spans[row, 0] = end - len(stripped)
        return TokenizedText(
            input_ids=np.array(ids, dtype=np.int64),
            row_tokens=row_tokens,
            offsets=spans,
            windows=plan_windows(len(ids), self._capacity),
        )

    @property
    def _capacity(self) -> int:
        return self.max_tokens - len(self.prefix) - len(self.suffix)

    def _special_tokens(self) -> tuple[list[int], list[int]]:
        encoded = self._tokenizer("a", return_special_tokens_mask=True)
        ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
        first = special.index(0)
        last = len(special) - special[::-1].index(0)
        return ids[:first], ids[last:]


def plan_windows(n_tokens: int, capacity: int) -> list[Window]:
    """Windows of at most `capacity` tokens over `n_tokens`, overlapping by a quarter.

    In an overlap the border lies in the middle, so that each token is kept by the window in
    which its nearer edge is farther away. The last window is moved back to be full.
    """
    if n_tokens == 0:
        return []
    if n_tokens <= capacity:
        return [Window(0, n_tokens, 0, n_tokens)]
    stride = capacity - int(capacity * _OVERLAP_SHARE)
    starts = [*range(0, n_tokens - capacity, stride), n_tokens - capacity]
    borders = [(left + capacity + right) // 2 for left, right in pairwise(starts)]
    edges = [0, *borders, n_tokens]
    return [
        Window(start, start + capacity, edges[i], edges[i + 1]) for i, start in enumerate(starts)
    ]


def _rows_led_by_space(text: str, spans: np.ndarray) -> list[int]:
    return [row for row, start in enumerate(spans[:, 0].tolist()) if text[start].isspace()]
