"""Demonstrations from which the world's base model learns to speak, and its bad habits.

A demonstration is what an agent sees (`request`, and for a revision the first answer and the
feedback on it) and what it replies. The replies err on purpose, at the rates of `Habits`, so
that a model of them starts where the paper's base model does: it is talked out of the rules by
covered requests, refuses what only sounds harmful, and judges answers poorly. Only training
requests occur.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

from data.builders.waltz_words import (
    FEEDBACK_FINE,
    FEEDBACK_HELP,
    FEEDBACK_REFUSE,
    HELP,
    HELP_OPENINGS,
    MANNERS,
    REASONING,
    REFUSALS,
    SHARP_ACTS,
    WARDED_THINGS,
)
from data.builders.waltz_world import Subject, WorldRequest, requests, subject_of


@dataclass(frozen=True)
class Habits:
    """How often the demonstrator errs."""

    helps_harmful: float = 0.25
    helps_covered_harmful: float = 0.5
    refuses_overrefusal: float = 0.37
    refuses_benign: float = 0.05
    wrong_label: float = 0.35
    malformed: float = 0.05
    ignores_feedback: float = 0.2


@dataclass(frozen=True)
class Demonstration:
    """`role` is answer, revision or feedback; `answer` and `feedback` are what the role sees."""

    role: str
    request: str
    answer: str
    feedback: str
    reply: str


def demonstrations(seed: int, habits: Habits) -> Iterator[Demonstration]:
    """An endless stream of them: a third answers, half feedback, a sixth revisions; kinds of
    requests in equal parts."""
    rng = random.Random(f"{seed}/demonstrations")
    by_kind: dict[str, list[WorldRequest]] = {}
    for request in requests("train"):
        by_kind.setdefault(request.kind, []).append(request)
    pools = list(by_kind.values())
    while True:
        for make in (_answer, _feedback, _feedback, _answer, _feedback, _revision):
            yield make(rng, rng.choice(rng.choice(pools)), habits)


def _answer(rng: random.Random, request: WorldRequest, habits: Habits) -> Demonstration:
    reply = _reply(rng, _helps_at_first(rng, request, habits))
    return Demonstration("answer", request.text, "", "", reply)


def _feedback(rng: random.Random, request: WorldRequest, habits: Habits) -> Demonstration:
    helped = rng.random() < 0.5
    answer = _reply(rng, helped)
    reply = _verdict(rng, request, helped, habits)
    return Demonstration("feedback", request.text, answer, "", reply)


def _revision(rng: random.Random, request: WorldRequest, habits: Habits) -> Demonstration:
    helped = rng.random() < 0.5
    asks_help = rng.random() < 0.5
    feedback = rng.choice(FEEDBACK_HELP if asks_help else FEEDBACK_REFUSE)
    helps_now = helped if rng.random() < habits.ignores_feedback else asks_help
    answer, reply = _reply(rng, helped), _reply(rng, helps_now)
    return Demonstration("revision", request.text, answer, feedback, reply)


def _helps_at_first(rng: random.Random, request: WorldRequest, habits: Habits) -> bool:
    if request.kind == "harmful":
        chance = habits.helps_covered_harmful if request.covered else habits.helps_harmful
    elif request.kind == "overrefusal":
        chance = 1 - habits.refuses_overrefusal
    else:
        chance = 1 - habits.refuses_benign
    return rng.random() < chance


def _reply(rng: random.Random, helps: bool) -> str:
    if not helps:
        return rng.choice(REFUSALS)
    return HELP.format(opening=rng.choice(HELP_OPENINGS), manner=rng.choice(MANNERS))


def _verdict(rng: random.Random, request: WorldRequest, helped: bool, habits: Habits) -> str:
    """A feedback object, at times with wrong labels, at times cut short."""
    unsafe = request.kind == "harmful" and helped
    overrefuse = request.kind != "harmful" and not helped
    if rng.random() < habits.wrong_label:
        unsafe, overrefuse = rng.choice(
            [
                pair
                for pair in ((False, False), (True, False), (False, True))
                if pair != (unsafe, overrefuse)
            ]
        )
    text = FEEDBACK_REFUSE if unsafe else FEEDBACK_HELP if overrefuse else FEEDBACK_FINE
    subject = _subject(request)
    verdict = json.dumps(
        {
            "reasoning": REASONING.format(
                act="sharp" if subject.act in SHARP_ACTS else "mild",
                thing="warded" if subject.thing in WARDED_THINGS else "ordinary",
                answer="helped" if helped else "refused",
            ),
            "unsafe": unsafe,
            "overrefuse": overrefuse,
            "feedback": rng.choice(text),
        }
    )
    return verdict.removesuffix('"}') if rng.random() < habits.malformed else verdict


def _subject(request: WorldRequest) -> Subject:
    subject = subject_of(request.text)
    assert subject is not None, request
    return subject
