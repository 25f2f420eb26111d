"""How far agents are from their references, and training from sampling, on given dialogues."""

from collections.abc import Callable, Mapping, Sequence

from ray_jobs.runtime.collectives import most
from ray_jobs.waltzrl.algorithm.learner import Learner
from ray_jobs.waltzrl.evaluation.metrics import CONVERSATION, TokenScores
from ray_jobs.waltzrl.rollout.dialogue import Reply, Trajectory

Score = Callable[[Sequence[Trajectory]], list[dict[str, TokenScores]]]
"""Scores of every dialogue by agent; collective."""


def score_dialogues(learners: Mapping[str, Learner], rows_at_once: int) -> Score:
    """Of all replies of the agents that learn; workers may have unequal numbers of them.

    `rows_at_once`: a share of a training step, which is known to fit.
    """

    def score(dialogues: Sequence[Trajectory]) -> list[dict[str, TokenScores]]:
        found: list[dict[str, TokenScores]] = [{} for _ in dialogues]
        for name, learner in learners.items():
            replies = [_replies(each, name) for each in dialogues]
            flat = [reply for each in replies for reply in each]
            scores = iter(learner.score(flat, most(len(flat)), rows_at_once))
            for dialogue, each in zip(found, replies, strict=True):
                dialogue[name] = TokenScores.total(next(scores) for _ in each)
        return found

    return score


def _replies(dialogue: Trajectory, agent: str) -> list[Reply]:
    if agent == CONVERSATION:
        return dialogue.answers
    return [feedback.reply for feedback in dialogue.feedbacks]
