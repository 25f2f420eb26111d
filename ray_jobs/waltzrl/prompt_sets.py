"""A prompt with its kind, and the order in which a run goes through them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """A user's request; `kind` is one of `metrics.SPLITS`."""

    text: str
    kind: str


def batch_of(
    prompts: Sequence[Prompt], size: int, step: int, seed: int
) -> list[tuple[int, Prompt]]:
    """(sample, prompt) pairs of global batch `step`: a function of (seed, step) alone.

    Each epoch is a new permutation; what does not fill a batch is left out of it.
    """
    per_epoch = len(prompts) // size
    epoch, within = divmod(step, per_epoch)
    order = random.Random(f"{seed}/{epoch}").sample(range(len(prompts)), len(prompts))
    chosen = order[within * size : (within + 1) * size]
    return [(sample, prompts[index]) for sample, index in enumerate(chosen)]
