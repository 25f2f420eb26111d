"""From dialogues to single-agent training samples (arXiv 2510.08240, section 3.3). Pure.

- Feedback agent: state (p, c_t), action f_t, for one round t chosen at random, so that long
  dialogues do not weigh more than short ones.
- Conversation agent: A, state p, action c_0; or B, state (p, H_{T-1}), action c_T, the last
  answer; one of both chosen at random for every dialogue.

Deviation:
 1. The choice depends on (seed, step, sample) and not on a worker's stream of random numbers,
    so that any number of workers makes the same samples.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ray_jobs.waltzrl.algorithm.rewards import (
    FeedbackWeights,
    conversation_reward,
    feedback_reward_at,
)
from ray_jobs.waltzrl.rollout.dialogue import Labels, Reply, Trajectory


@dataclass(frozen=True)
class Sample:
    """One action of one agent; `reward` is None when the judge failed."""

    reply: Reply
    reward: float | None


def feedback_samples(
    trajectories: Sequence[Trajectory],
    judged: Sequence[Sequence[Labels | None]],
    weights: FeedbackWeights,
    seed: tuple[int, ...],
) -> list[Sample]:
    """One sample a dialogue; `judged[i][t]` are the labels of answer t of dialogue i."""
    samples = []
    for trajectory, labels in zip(trajectories, judged, strict=True):
        chosen = _random(seed, trajectory, "round").randrange(len(trajectory.feedbacks))
        reward = feedback_reward_at(trajectory, labels, chosen, weights)
        samples.append(Sample(trajectory.feedbacks[chosen].reply, reward))
    return samples


def conversation_samples(
    trajectories: Sequence[Trajectory],
    judged: Sequence[Sequence[Labels | None]],
    seed: tuple[int, ...],
) -> list[Sample]:
    """One sample a dialogue: c_0 or c_T."""
    samples = []
    for trajectory, labels in zip(trajectories, judged, strict=True):
        chosen = 0 if _random(seed, trajectory, "answer").random() < 0.5 else -1
        reward = conversation_reward(labels[chosen])
        samples.append(Sample(trajectory.answers[chosen], reward))
    return samples


def _random(seed: tuple[int, ...], trajectory: Trajectory, what: str) -> random.Random:
    return random.Random(f"{seed}/{trajectory.sample}/{what}")
