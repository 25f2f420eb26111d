"""Attention sinks: tokens of massive activation, which a training on ordinary tokens leaves out.

In real language models a few tokens (the first of a text, delimiters) have activations a hundred
times as large as all others, nearly the same whatever the text (Sun et al., "Massive Activations
in Large Language Models", arXiv 2402.17762). At SmolLM2's layer 12 they are 0.9 % of the tokens
and 97 % of the variance: a mean, a scale or an FVU over all tokens is theirs alone.

The rule: a token is a sink if its distance from the centre of ordinary tokens is more than
SINK_FACTOR times the median distance. Centre and median come from a sample of the corpus, by
coordinate-wise medians, which a minority of sinks does not move; the first token of a text,
the usual sink, is no part of the sample. What a tokenizer adds (BOS, CLS, SEP) and padding is
run through the model and is never a row, so the rule does not see it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SINK_FACTOR = 5.0
"""Ordinary tokens reach 2 in the later layers of a Llama, and 4.4 in the last one of an encoder;
sinks have 50 to 260, in early layers from 5 on."""

SAMPLE_TEXTS = 64
SAMPLE_ROWS = 64
"""Rows of each text of the sample."""


@dataclass(frozen=True)
class SinkRule:
    """`centre` (d,) float32 of ordinary activations, and the `radius` beyond which sinks lie."""

    centre: Tensor
    radius: float

    def is_sink(self, rows: Tensor) -> Tensor:
        """bool (n,) for activations (n, d)."""
        return (rows.float() - self.centre).norm(dim=1) > self.radius

    def with_sinks_at_centre(self, rows: Tensor) -> Tensor:
        """Activations (n, d) with the centre in place of each sink; a copy only where one is."""
        sink = self.is_sink(rows)
        if not sink.any():
            return rows
        return torch.where(sink[:, None], self.centre.to(rows.dtype), rows)


def sinks_in_words(n_sinks: int, n_first: int, n_rows: int) -> str:
    """What was left out and why, in one line; `n_first` of the sinks are first of their text."""
    return (
        f"{n_sinks:,} of {n_rows:,} tokens ({n_sinks / n_rows:.2%}) are attention sinks (more than "
        f"{SINK_FACTOR:g} times the usual distance from the mean; {n_first:,} are the first of "
        "their text): left out of scale, training and FVU"
    )


def sample(n_texts: int) -> list[int]:
    """Numbers of SAMPLE_TEXTS texts spread evenly over all, or of all where there are fewer."""
    count = min(SAMPLE_TEXTS, n_texts)
    return [i * n_texts // count for i in range(count)]


def find_sink_rule(texts: Sequence[Tensor]) -> SinkRule:
    """The rule for the activations (n_i, d) of each text of a sample, first token first.

    Activations without spread (all alike) have no sinks: the radius is infinite.
    """
    later = [rows[1:SAMPLE_ROWS] for rows in texts if len(rows) > 1]
    sample = torch.cat(later or [rows[:1] for rows in texts]).float()
    centre = sample.median(dim=0).values
    median = float((sample - centre).norm(dim=1).median())
    return SinkRule(centre, SINK_FACTOR * median if median > 0 else float("inf"))
