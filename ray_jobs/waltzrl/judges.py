"""Judges: what an answer is to its prompt. A failed judgement is None and is never a verdict."""

from collections.abc import Callable, Sequence

from data.builders.waltz_world import faults
from ray_jobs.waltzrl.dialogue import Labels, Trajectory

Judge = Callable[[Sequence[tuple[str, str]]], list[Labels | None]]
"""Labels of (prompt, answer) pairs, in their order; None where the judge failed."""


def rule_judge(pairs: Sequence[tuple[str, str]]) -> list[Labels | None]:
    """The truth of the embedded world; fails on prompts that are not of it."""
    found = [faults(prompt, answer) for prompt, answer in pairs]
    return [None if fault is None else Labels(*fault) for fault in found]


def judge_dialogues(
    judge: Judge, trajectories: Sequence[Trajectory]
) -> list[tuple[Labels | None, ...]]:
    """The labels of every answer of every dialogue, from one call of the judge."""
    pairs = [(each.prompt, answer.text) for each in trajectories for answer in each.answers]
    labels = iter(judge(pairs))
    return [tuple(next(labels) for _ in each.answers) for each in trajectories]
