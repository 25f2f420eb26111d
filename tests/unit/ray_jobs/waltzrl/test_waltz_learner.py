"""One agent's update: what counts, what does not, and what must not be applied."""

import math
from dataclasses import replace

import pytest
import torch

from data.errors import NonFiniteError
from ray_jobs.waltzrl.algorithm.learner import Learner, LearnStatistics, LossSettings
from ray_jobs.waltzrl.algorithm.loss import action_batch, action_logprobs
from ray_jobs.waltzrl.algorithm.policy import EngineOptions, Policy, Reference
from ray_jobs.waltzrl.algorithm.rewards import Sample
from ray_jobs.waltzrl.rollout.dialogue import Reply, TokenScores
from tests.unit.ray_jobs.waltzrl import policy_rig as rig

pytestmark = [
    # DeepSpeed uses what PyTorch 2.13 deprecates.
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning"),
]

CPU = torch.device("cpu")
SETTINGS = LossSettings(
    beta=0.01, epsilon=0.2, importance_cap=2.0, temperature=1.0, updates=1, parts=1
)


def samples(number: int = 8) -> list[Sample]:
    """Actions whose reward is 1 where the first token is even."""
    found = []
    for prompt, action in rig.sequences(3, number):
        pairs = action_batch([(prompt, action)], rig.PAD, CPU)
        with torch.no_grad():
            logprobs = action_logprobs(rig.tiny_llama(), pairs, 1.0)[0]
        reply = Reply("", tuple(prompt), tuple(action), tuple(logprobs.tolist()))
        found.append(Sample(reply, float(action[0] % 2 == 0)))
    return found


def learner(settings: LossSettings = SETTINGS) -> Learner:
    reference = Reference(rig.tiny_llama(), EngineOptions(), CPU)
    return Learner(Policy(rig.tiny_llama(), EngineOptions()), reference, settings, rig.PAD)


def learn(
    given: list[Sample], rows: int = 0, settings: LossSettings = SETTINGS
) -> tuple[dict[str, torch.Tensor], LearnStatistics]:
    made = learner(settings)
    statistics = made.learn(given, rows or len(given), 1e-3)
    return made.policy.weights(), statistics


def test_it_makes_rewarded_actions_likelier_than_others():
    given = samples(24)
    made = learner()
    for _ in range(5):
        made.learn(given, len(given), 1e-3)
    batch = action_batch([(s.reply.prompt_ids, s.reply.token_ids) for s in given], rig.PAD, CPU)
    with torch.no_grad():
        now = made.policy.logprobs(batch, 1.0).sum(1)
        before = action_logprobs(rig.tiny_llama(), batch, 1.0).sum(1)
    gain, good = now - before, torch.tensor([s.reward == 1.0 for s in given])
    assert gain[good].mean() > 0.05 > gain[~good].mean()


def test_statistics_of_the_first_step():
    given = samples()
    _, statistics = learn(given)
    assert statistics.reward == pytest.approx(sum(s.reward or 0 for s in given) / 8)
    assert statistics.kl == pytest.approx(0, abs=1e-9)
    assert statistics.drift < 1e-6
    assert statistics.tokens == sum(len(s.reply.token_ids) for s in given)
    assert statistics.judge_errors == 0


def test_scores_are_of_each_reply_and_add_up_to_those_of_a_step():
    given, made = samples(), learner(replace(SETTINGS, parts=2))
    made.learn(given, 8, 1e-2)
    replies = [each.reply for each in given]
    scores = made.score(replies, rows=11, rows_at_once=4)  # as where another worker has more
    assert [each.tokens for each in scores] == [len(reply.token_ids) for reply in replies]
    whole, statistics = TokenScores.total(scores), made.learn(given, 8, 1e-2)
    assert whole.kl / whole.tokens == pytest.approx(statistics.kl, rel=1e-4) and statistics.kl > 0
    assert whole.drift / whole.tokens == pytest.approx(statistics.drift, rel=1e-4)


def test_a_failed_judgement_and_empty_rows_change_nothing():
    given = samples()
    weights, _ = learn(given)
    failed = [*given, replace(samples(9)[8], reward=None)]
    others, statistics = learn(failed, rows=12)
    assert statistics.judge_errors == 1 and statistics.tokens > 0
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, atol=2e-5, rtol=0)


def test_all_judgements_failed_is_a_step_without_a_gradient():
    given = [replace(each, reward=None) for each in samples()]
    weights, statistics = learn(given)
    assert statistics.judge_errors == 8 and statistics.tokens == 0
    for name, value in rig.tiny_llama().named_parameters():
        assert torch.equal(weights[name], value.detach())


def test_parts_of_a_share_add_up():
    whole, one = learn(samples())
    parts, other = learn(samples(), settings=replace(SETTINGS, parts=3))
    assert other.loss == pytest.approx(one.loss, abs=1e-6)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=2e-5, rtol=0)


def test_several_updates_are_taken_on_the_same_samples():
    made = learner(replace(SETTINGS, updates=3))
    made.learn(samples(), 8, 1e-3)
    assert made.policy.updates == 3


def test_a_loss_that_is_not_finite_is_not_applied():
    made = learner()
    bad = samples()
    bad[2] = replace(bad[2], reward=math.inf)
    with pytest.raises(NonFiniteError, match="not finite"):
        made.learn(bad, len(bad), 1e-3)
    assert made.policy.updates == 0
    for name, value in rig.tiny_llama().named_parameters():
        assert torch.equal(made.policy.weights()[name], value.detach())
