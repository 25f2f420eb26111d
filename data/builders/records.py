"""Records and notes composed at random from field labels and sentences, for the train split only.

The validation and test splits have texts that were written as a whole, so what is learned from
these is tested on others.
"""

import json
import random

_SEPARATORS = (": ", ": ", ": ", " : ", " = ", "=", " - ", "\t", ":\n", " | ")
_BETWEEN = ("\n", "\n", "\n", "; ", ", ", " / ", "\n\n")


def compose_record(rng: random.Random, fields: dict[str, tuple[str, ...]]) -> str:
    """Template text of three to seven fields, in lines, as a table of one row, or as JSON.

    `fields`: slot name to the labels it may have; see `texts.Texts.fields`.
    """
    slots = rng.sample(sorted(fields), rng.randint(3, 7))
    labels = [_cased(rng, rng.choice(fields[slot])) for slot in slots]
    holes = [f"{{{slot}}}" for slot in slots]
    layout = rng.random()
    if layout < 0.12:
        return json.dumps(dict(zip(labels, holes, strict=True)), ensure_ascii=False)
    if layout < 0.24:
        joint = rng.choice((",", ";", "\t", " | "))
        return f"{joint.join(labels)}\n{joint.join(holes)}"
    separator, between = rng.choice(_SEPARATORS), rng.choice(_BETWEEN)
    return between.join(
        f"{label}{separator}{hole}" for label, hole in zip(labels, holes, strict=True)
    )


def compose_note(rng: random.Random, sentences: tuple[str, ...]) -> str:
    """Template text of one to four sentences in a row."""
    return rng.choice((" ", " ", " ", "\n")).join(rng.sample(sentences, rng.randint(1, 4)))


def _cased(rng: random.Random, label: str) -> str:
    chance = rng.random()
    if chance < 0.1:
        return label.upper()
    if chance < 0.25:
        return label.lower()
    return label.lower().replace(" ", "_") if chance < 0.3 else label
