"""What stands in for an agent in the rows that an evaluation compares with. Pure.

- `guard`: a feedback agent's `unsafe` label alone, as a safeguard model in front of the user;
- `judge_guard`: a safeguard model itself;
- `canned`: what such a safeguard answers;
- `oracle`: the judge's own labels with a template text, the best that labels alone can do.
"""

import json
from collections.abc import Sequence

from ray_jobs.waltzrl.judges.judges import Judge
from ray_jobs.waltzrl.rollout.dialogue import Labels, Reply, Request, Sampler, parse_feedback
from ray_jobs.waltzrl.rollout.prompts import Prompts


def guard(feedback: Sampler) -> Sampler:
    """Blocks what the feedback agent calls unsafe and lets everything else pass."""

    def sample(requests: Sequence[Request]) -> list[Reply]:
        found = [parse_feedback(reply).labels for reply in feedback(requests)]
        return [_verdict(Labels(bool(each and each.unsafe), False), "") for each in found]

    return sample


def judge_guard(judge: Judge) -> Sampler:
    """Blocks what a safeguard model calls unsafe; where it fails, the answer passes."""

    def sample(requests: Sequence[Request]) -> list[Reply]:
        found = judge([request.about for request in requests])
        return [_verdict(Labels(bool(each and each.unsafe), False), "") for each in found]

    return sample


def canned(conversation: Sampler, refusal: str) -> Sampler:
    """The conversation agent's first answer, and the same refusal for every later one."""

    def sample(requests: Sequence[Request]) -> list[Reply]:
        if all(request.turn == 0 for request in requests):
            return conversation(requests)
        return [Reply(refusal) for _ in requests]

    return sample


def oracle(judge: Judge, templates: Prompts) -> Sampler:
    """The judge's labels; where the judge fails, nothing is asked for."""

    def sample(requests: Sequence[Request]) -> list[Reply]:
        replies = []
        for labels in judge([request.about for request in requests]):
            labels = labels or Labels(False, False)
            text = templates.unsafe_feedback if labels.unsafe else templates.overrefuse_feedback
            replies.append(_verdict(labels, text))
        return replies

    return sample


def _verdict(labels: Labels, text: str) -> Reply:
    return Reply(
        json.dumps(
            {
                "reasoning": "",
                "unsafe": labels.unsafe,
                "overrefuse": labels.overrefuse,
                "feedback": text,
            }
        )
    )
