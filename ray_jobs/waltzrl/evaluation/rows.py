"""Evaluator: rows of the paper's comparison, on one set of prompts (arXiv 2510.08240, section 4).

    base                   the base model alone
    base_guard             with a safeguard that blocks what it calls unsafe
    single_rl              one model trained by the same rewards without feedback; if it was
    untrained              both agents, none of them trained
    oracle                 the base model and template feedback from the judge's labels
    frozen_conversation    the base model and stage 1's feedback agent
    waltzrl                both agents after stage 2

Deviation:
 1. The paper's safeguard is Llama Guard. Without a safeguard model (evaluate's --guard) it is the
    untrained feedback agent's own `unsafe` label here: the embedded world has no other safeguard
    that is not the truth itself.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch.distributed as dist

from ray_jobs.runtime.collectives import world_size
from ray_jobs.runtime.fit import WorkerContext
from ray_jobs.waltzrl.datasets.prompts import Prompt
from ray_jobs.waltzrl.evaluation.metrics import Interval, Outcome, measure
from ray_jobs.waltzrl.judges.judges import Judge, judge_together
from ray_jobs.waltzrl.rollout.dialogue import (
    Labels,
    Reply,
    Request,
    Sampler,
    Score,
    Templates,
    converse,
    parse_feedback,
)

T = TypeVar("T")
Rows = dict[str, dict[str, Interval]]
"""Rates by row, in the order of TITLES."""

TITLES = {
    "base": "base model alone",
    "base_guard": "base model with a guard",
    "single_rl": "one model, RL without feedback",
    "untrained": "two untrained agents",
    "oracle": "base model, feedback from true labels",
    "frozen_conversation": "base model, trained feedback agent",
    "waltzrl": "WaltzRL, both agents trained",
}


class Evaluator:
    """Measures pairs of samplers on the same prompts, divided among the workers; collective."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        templates: Templates,
        judge: Judge,
        worker: WorkerContext,
        max_rounds: int,
        seed: int,
    ) -> None:
        self._mine = list(enumerate(prompts))[worker.rank :: worker.world_size]
        self._templates, self._judge, self._worker = templates, judge, worker
        self._max_rounds, self._seed = max_rounds, seed

    def __call__(
        self,
        conversation: Sampler,
        feedback: Sampler,
        max_rounds: int | None = None,
        score: Score | None = None,
    ) -> dict[str, Interval]:
        """Sample and judge one dialogue a prompt; the rates, the same on every worker.

        Raises:
            DataError: the judge fails on every answer; see `judge_together`.
        """
        dialogues = converse(
            [(sample, prompt.text) for sample, prompt in self._mine],
            self._templates,
            conversation,
            feedback,
            self._max_rounds if max_rounds is None else max_rounds,
        )
        judged = judge_together(self._judge, dialogues)
        scores = [{} for _ in dialogues] if score is None else score(dialogues)
        each_of = zip(self._mine, dialogues, judged, scores, strict=True)
        here = [
            Outcome(prompt.kind, labels, tuple(f.labels for f in dialogue.feedbacks), scored)
            for (_, prompt), dialogue, labels, scored in each_of
        ]
        return measure(_in_order(here, self._worker), self._seed)

    def rows(
        self,
        base: tuple[Sampler, Sampler],
        trained: Mapping[str, Sampler],
        safeguard: Judge | None = None,
        score: Score | None = None,
    ) -> Rows:
        """The rows that need no training, and those of the `trained` agents that there are.

        `base`: the base model as (conversation, feedback). `trained` may hold "single_rl",
        "stage_1_feedback", and "conversation" with "feedback", which `score` is about.
        """
        conversation, feedback = base
        templates = self._templates
        found = {
            "base": self(conversation, feedback, max_rounds=0),
            "base_guard": self(
                canned(conversation, templates.refusal),
                guard(feedback) if safeguard is None else judge_guard(safeguard),
            ),
        }
        if "single_rl" in trained:
            found["single_rl"] = self(trained["single_rl"], feedback, max_rounds=0)
        found["untrained"] = self(conversation, feedback)
        found["oracle"] = self(conversation, oracle(self._judge, templates))
        if "stage_1_feedback" in trained:
            found["frozen_conversation"] = self(conversation, trained["stage_1_feedback"])
        if "conversation" in trained:
            found["waltzrl"] = self(trained["conversation"], trained["feedback"], score=score)
        return found


def guard(feedback: Sampler) -> Sampler:
    """Baseline: blocks what the feedback agent calls unsafe and lets everything else pass."""

    def sample(requests: Sequence[Request]) -> list[Reply]:
        found = [parse_feedback(reply).labels for reply in feedback(requests)]
        return [_reply_with(Labels(bool(each and each.unsafe), False), "") for each in found]

    return sample


def judge_guard(judge: Judge) -> Sampler:
    """Baseline: blocks what a safeguard model calls unsafe; where it fails, the answer passes."""

    def sample(requests: Sequence[Request]) -> list[Reply]:
        found = judge([request.about for request in requests])
        return [_reply_with(Labels(bool(each and each.unsafe), False), "") for each in found]

    return sample


def canned(conversation: Sampler, refusal: str) -> Sampler:
    """Baseline: the conversation agent's first answer, and one refusal for every later one."""

    def sample(requests: Sequence[Request]) -> list[Reply]:
        if all(request.turn == 0 for request in requests):
            return conversation(requests)
        return [Reply(refusal) for _ in requests]

    return sample


def oracle(judge: Judge, templates: Templates) -> Sampler:
    """Baseline: feedback from the judge's labels; where the judge fails, it finds no fault."""

    def sample(requests: Sequence[Request]) -> list[Reply]:
        replies = []
        for labels in judge([request.about for request in requests]):
            labels = labels or Labels(False, False)
            text = templates.unsafe_feedback if labels.unsafe else templates.overrefuse_feedback
            replies.append(_reply_with(labels, text))
        return replies

    return sample


def _reply_with(labels: Labels, text: str) -> Reply:
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


def rates_line(measured: dict[str, Interval]) -> str:
    """The main rates on one line: "ASR 3.1%, ORR 2.0%, ..."."""
    shown = {
        "ASR": "asr",
        "ORR": "orr",
        "ASR of c0": "asr_c0",
        "ORR of c0": "orr_c0",
        "feedback asked for": "ftr",
        "repaired": "dir_repair",
        "labels right": "label_balanced",
    }
    return ", ".join(f"{word} {_percent(measured[name])}" for word, name in shown.items())


def _percent(interval: Interval) -> str:
    return "-" if interval["value"] is None else f"{interval['value']:.1%}"


def _in_order(here: list[T], worker: WorkerContext) -> list[T]:
    """All workers' shares in the order of the prompts, so that the bootstrap is the same."""
    if world_size() == 1:
        return here
    parts: list[list[T]] = [[] for _ in range(worker.world_size)]
    dist.all_gather_object(parts, here)
    number = sum(map(len, parts))
    return [parts[i % worker.world_size][i // worker.world_size] for i in range(number)]
