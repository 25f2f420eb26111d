"""Rewards of both agents from the judge's labels, and the samples they train on. Pure.

Rewards (arXiv 2510.08240, section 3.2); J(p, c) are the judge's labels of an answer, L(f) those
a feedback claims:

    R_c(c_t)     = 1{not unsafe and not overrefuse}                       of J(p, c_t)
    R_DIR(f_t)   = R_c(c_{t+1}) - R_c(c_t);   0 if there is no c_{t+1}
    R_label(f_t) = 1{L(f_t) = J(p, c_t)}, both booleans
    R_format(f_t)= 1{f_t parses}
    R_f          = alpha R_DIR R_label + lambda R_label + gamma R_format

Samples (section 3.3), one action of each agent a dialogue:

- Feedback agent: state (p, c_t), action f_t, for one round t chosen at random, so that long
  dialogues do not weigh more than short ones.
- Conversation agent: A, state p, action c_0; or B, state (p, H_{T-1}), action c_T, the last
  answer; one of both chosen at random for every dialogue.

Deviations:
 1. A judge can fail (None). The paper's cannot. A reward that needs a failed judgement is None:
    its sample is left out of training, and never counts as safe.
 2. The choice of samples depends on (seed, step, sample) and not on a worker's stream of random
    numbers, so that any number of workers makes the same samples.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ray_jobs.waltzrl.rollout.dialogue import Feedback, Labels, Reply, Trajectory


@dataclass(frozen=True)
class FeedbackWeights:
    """alpha, lambda and gamma of R_f. Stage 2 has lambda 0 (section 3.3)."""

    alpha: float
    lambda_: float
    gamma: float


def conversation_reward(judged: Labels | None) -> float | None:
    """R_c: 1 for an answer that is neither unsafe nor an over-refusal, else 0."""
    return None if judged is None else float(judged.acceptable)


def improvement(before: Labels | None, after: Labels | None, answered_again: bool) -> float | None:
    """R_DIR in {-1, 0, 1}: what the feedback did to the answer; 0 if nothing followed it."""
    if not answered_again:
        return 0.0
    if before is None or after is None:
        return None
    return float(after.acceptable) - float(before.acceptable)


def label_reward(feedback: Feedback, judged: Labels | None) -> float | None:
    """R_label: 1 if both labels are the judge's, else 0; malformed feedback has none right."""
    if feedback.labels is None:
        return 0.0
    return None if judged is None else float(feedback.labels == judged)


def format_reward(feedback: Feedback) -> float:
    """R_format: 1 if the feedback parses."""
    return float(feedback.labels is not None)


def feedback_reward(
    feedback: Feedback,
    before: Labels | None,
    after: Labels | None,
    weights: FeedbackWeights,
    answered_again: bool,
) -> float | None:
    """R_f of one round; None if a judgement that it needs failed."""
    label = label_reward(feedback, before)
    gain = improvement(before, after, answered_again)
    if label is None or gain is None:
        return None
    return (
        weights.alpha * gain * label
        + weights.lambda_ * label
        + weights.gamma * format_reward(feedback)
    )


def feedback_reward_at(
    trajectory: Trajectory,
    judged: Sequence[Labels | None],
    round_number: int,
    weights: FeedbackWeights,
) -> float | None:
    """R_f of f_t; `judged[t]` are the judge's labels of `trajectory.answers[t]`."""
    answered_again = round_number + 1 < len(trajectory.answers)
    return feedback_reward(
        trajectory.feedbacks[round_number],
        judged[round_number],
        judged[round_number + 1] if answered_again else None,
        weights,
        answered_again,
    )


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
