"""Rewards, dialogue and samples against cases worked out by hand."""

import json

import pytest

from ray_jobs.waltzrl.algorithm.rewards import (
    FeedbackWeights,
    conversation_samples,
    feedback_reward_at,
    feedback_samples,
)
from ray_jobs.waltzrl.rollout.dialogue import (
    WORLD_TEMPLATES,
    Labels,
    Reply,
    Request,
    Trajectory,
    converse,
    parse_feedback,
)

FINE, UNSAFE, OVERREFUSE = Labels(False, False), Labels(True, False), Labels(False, True)
WEIGHTS = FeedbackWeights(alpha=0.65, lambda_=0.5, gamma=0.1)


def verdict(unsafe: object, overrefuse: object, feedback: object = "do better") -> Reply:
    fields = {"reasoning": "r", "unsafe": unsafe, "overrefuse": overrefuse, "feedback": feedback}
    return Reply(json.dumps(fields))


def trajectory(feedback: Reply, answers: int) -> Trajectory:
    made = Trajectory("p", 0, [Reply(f"c{i}") for i in range(answers)])
    made.feedbacks.append(parse_feedback(feedback))
    return made


@pytest.mark.parametrize(
    ("feedback", "judged", "expected"),
    [
        # right label, mended: alpha + lambda + gamma
        (verdict(True, False), [UNSAFE, FINE], 0.65 + 0.5 + 0.1),
        # right label, not mended
        (verdict(True, False), [UNSAFE, UNSAFE], 0.5 + 0.1),
        # wrong label, mended all the same: the improvement does not count
        (verdict(False, True), [UNSAFE, FINE], 0.1),
        # wrong label, made worse: nor does the harm
        (verdict(True, False), [FINE, OVERREFUSE], 0.1),
        # right label, and no further answer
        (verdict(False, False), [FINE], 0.5 + 0.1),
        # missed: no further answer, wrong label
        (verdict(False, False), [UNSAFE], 0.1),
        # one of two booleans right is wrong
        (verdict(True, True), [UNSAFE, FINE], 0.1),
        # malformed: nothing at all
        (Reply("not json"), [UNSAFE], 0.0),
        # the judge failed on either answer: no reward, not a safe one
        (verdict(True, False), [None, FINE], None),
        (verdict(True, False), [UNSAFE, None], None),
    ],
)
def test_the_feedback_reward(feedback: Reply, judged: list, expected: float | None):
    got = feedback_reward_at(trajectory(feedback, len(judged)), judged, 0, WEIGHTS)
    assert got == (None if expected is None else pytest.approx(expected))


def test_stage_two_gives_nothing_for_the_label_alone():
    stage2 = FeedbackWeights(alpha=0.65, lambda_=0.0, gamma=0.1)
    right = trajectory(verdict(False, False), 1)
    assert feedback_reward_at(right, [FINE], 0, stage2) == pytest.approx(0.1)
    mended = trajectory(verdict(True, False), 2)
    assert feedback_reward_at(mended, [UNSAFE, FINE], 0, stage2) == pytest.approx(0.75)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '"unsafe"',
        "{}",
        verdict("true", False).text,
        verdict(1, 0).text,
        verdict(True, False, feedback=None).text,
        verdict(True, False).text[:-1],
        verdict(True, False).text + " trailing",
        "[" * 100_000,
    ],
)
def test_feedback_that_is_not_the_object_is_malformed(text: str):
    assert parse_feedback(Reply(text)).labels is None


class Script:
    """A sampler that answers by (sample, turn) and keeps what it was asked."""

    def __init__(self, replies: dict[tuple[int, int], str]) -> None:
        self.replies = replies
        self.asked: list[list[Request]] = []

    def __call__(self, requests):
        self.asked.append(list(requests))
        return [Reply(self.replies[r.sample, r.turn]) for r in requests]


def test_a_dialogue_stops_at_good_malformed_and_the_last_round():
    conversation = Script({(0, 0): "a0", (1, 0): "b0", (2, 0): "c0", (2, 2): "c1", (2, 4): "c2"})
    feedback = Script(
        {
            (0, 1): verdict(False, False).text,
            (1, 1): "{",
            (2, 1): verdict(True, False, "first").text,
            (2, 3): verdict(False, True, "second").text,
        }
    )
    done = converse(
        [(0, "a"), (1, "b"), (2, "c")], WORLD_TEMPLATES, conversation, feedback, max_rounds=2
    )
    assert [[a.text for a in d.answers] for d in done] == [["a0"], ["b0"], ["c0", "c1", "c2"]]
    assert [d.triggered for d in done] == [False, False, True]
    assert [len(d.feedbacks) for d in done] == [1, 1, 2]
    last = conversation.asked[-1][0].messages
    assert [m["content"] for m in last[1:]] == ["c", "c0", "first", "c1", "second"]
    # Only the feedback's text goes back, never its labels or reasoning.
    assert "unsafe" not in json.dumps(last)


def test_every_worker_calls_the_samplers_equally_often():
    conversation, feedback = Script({(0, 0): "a0"}), Script({(0, 1): "{"})
    converse([(0, "a")], WORLD_TEMPLATES, conversation, feedback, max_rounds=1)
    assert [len(asked) for asked in conversation.asked] == [1, 0]


def test_samples_are_one_a_dialogue_by_seed_and_sample_alone():
    dialogues, judged = [], []
    for sample in range(200):
        made = trajectory(verdict(True, False), 2)
        made.sample = sample
        dialogues.append(made)
        judged.append([UNSAFE, FINE])
    chosen = conversation_samples(dialogues, judged, (0, 1))
    first = sum(s.reply.text == "c0" for s in chosen)
    assert 70 < first < 130
    assert all(s.reward == (0.0 if s.reply.text == "c0" else 1.0) for s in chosen)
    assert conversation_samples(dialogues[50:60], judged[50:60], (0, 1)) == chosen[50:60]
    assert conversation_samples(dialogues, judged, (0, 2)) != chosen
    feedbacks = feedback_samples(dialogues, judged, WEIGHTS, (0, 1))
    assert all(s.reward == pytest.approx(1.25) for s in feedbacks)


def test_feedback_samples_choose_among_the_rounds():
    dialogues, judged = [], []
    for sample in range(100):
        made = Trajectory("p", sample, [Reply("c0"), Reply("c1"), Reply("c2")])
        made.feedbacks = [
            parse_feedback(verdict(True, False, "one")),
            parse_feedback(verdict(False, True, "two")),
        ]
        dialogues.append(made)
        judged.append([UNSAFE, OVERREFUSE, FINE])
    chosen = feedback_samples(dialogues, judged, WEIGHTS, (0,))
    rounds = {s.reply.text: s.reward for s in chosen}
    assert len(rounds) == 2
    assert rounds[dialogues[0].feedbacks[0].reply.text] == pytest.approx(0.6)
    assert rounds[dialogues[0].feedbacks[1].reply.text] == pytest.approx(1.25)
