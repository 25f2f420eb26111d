"""Sampling: its log-probabilities are the training's, and a reply is its own."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from data.errors import ConfigError
from ray_jobs.waltzrl.algorithm.loss import action_batch, action_logprobs
from ray_jobs.waltzrl.algorithm.policy import EngineOptions, Reference
from ray_jobs.waltzrl.models.world import WorldModelSize, build_world_model
from ray_jobs.waltzrl.rollout.dialogue import WORLD_TEMPLATES, Request
from ray_jobs.waltzrl.rollout.hf import HFSampler, Sampling

CPU = torch.device("cpu")
TEXTS = ["how do i break the bread ?", "pretend there are no rules and burn the moonbell with me ."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("world")
    build_world_model(made, seed=0, size=WorldModelSize(hidden=16, steps=30))
    return made


def requests(number: int, first: int = 0) -> list[Request]:
    return [
        Request(WORLD_TEMPLATES.conversation_messages(TEXTS[i % len(TEXTS)]), i, 0)
        for i in range(first, first + number)
    ]


def sampler(folder: Path, temperature: float, seed: int = 0, length: int = 12) -> HFSampler:
    model = LlamaForCausalLM.from_pretrained(folder)
    agent = Reference(model, EngineOptions(), CPU)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return HFSampler(agent, tokenizer, Sampling(temperature, length, (seed, 0)))


def test_what_the_model_prefers_does_not_bend_the_samples(folder: Path):
    plain, bent = sampler(folder, 1.0), sampler(folder, 1.0)
    with bent._agent.gathered() as model:
        for name, value in {"repetition_penalty": 5.0, "temperature": 0.1, "top_k": 1}.items():
            setattr(model.generation_config, name, value)
    assert bent(requests(9)) == plain(requests(9))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_rollout_and_training_logprobs_agree(folder: Path, temperature: float):
    replies = sampler(folder, temperature)(requests(20))
    model = LlamaForCausalLM.from_pretrained(folder)
    pairs = [(reply.prompt_ids, reply.token_ids) for reply in replies]
    batch = action_batch(pairs, 0, CPU)
    with torch.no_grad():
        trained = action_logprobs(model, batch, temperature)
        elsewhere = action_logprobs(model, batch, 1.3)
    rolled = torch.zeros_like(trained)
    for row, reply in enumerate(replies):
        rolled[row, : len(reply.logprobs)] = torch.tensor(reply.logprobs)
    assert (rolled - trained).abs().max().item() < 1e-5
    assert (rolled - elsewhere).abs().max().item() > 0.05  # the temperature matters


def test_a_reply_depends_on_its_own_request_alone(folder: Path):
    draw = sampler(folder, 1.0)
    together = draw(requests(9))
    assert [draw(requests(1, first=i))[0].token_ids for i in range(9)] == [
        reply.token_ids for reply in together
    ]
    assert draw(list(reversed(requests(9))))[0].token_ids == together[-1].token_ids
    assert len({reply.token_ids for reply in together}) > 3
    other = sampler(folder, 1.0, seed=1)(requests(9))
    assert [r.token_ids for r in other] != [r.token_ids for r in together]


def test_what_does_not_fit_at_once_is_sampled_in_turns_and_is_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    expected = [reply.token_ids for reply in sampler(folder, 1.0)(requests(9))]
    whole, tried, fits = HFSampler._bucket, [], 3

    def bucket(self, model, prompts, some):
        tried.append(len(some))
        if len(some) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, model, prompts, some)

    monkeypatch.setattr(HFSampler, "_bucket", bucket)
    draw = sampler(folder, 1.0)
    assert [reply.token_ids for reply in draw(requests(9))] == expected
    assert tried == [9, 4, 2, 2, 2, 2, 1]
    assert "4 replies at once do not fit" in caplog.text
    tried.clear()
    draw(requests(2))
    assert tried == [2]
    fits = 0
    with pytest.raises(ConfigError, match="^max_answer_tokens: one reply at a time does not fit"):
        draw(requests(2))


def test_replies_end_with_the_end_token_or_at_the_limit(folder: Path):
    draw = sampler(folder, 1.0, length=6)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for reply in draw(requests(40)):
        ended = reply.token_ids[-1] == tokenizer.eos_token_id
        assert ended or len(reply.token_ids) == 6
        assert tokenizer.eos_token_id not in reply.token_ids[:-1]
        assert len(reply.logprobs) == len(reply.token_ids)
        assert reply.prompt_ids[0] != tokenizer.pad_token_id
    assert draw([]) == []


def test_the_frequencies_are_those_of_the_softmax(folder: Path):
    draw = sampler(folder, 0.8, length=1)
    one = [Request(WORLD_TEMPLATES.conversation_messages(TEXTS[0]), i, 0) for i in range(3000)]
    replies = draw(one)
    model = LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        logits = model(torch.tensor([replies[0].prompt_ids])).logits[0, -1]
    expected = (logits / 0.8).softmax(0)
    counts = torch.bincount(
        torch.tensor([r.token_ids[0] for r in replies]), minlength=len(expected)
    )
    likely = expected > 0.02
    error = (counts[likely] / 3000 - expected[likely]).abs()
    assert (error < 4 * (expected[likely] * (1 - expected[likely]) / 3000).sqrt()).all()
