"""REINFORCE++ against cases worked out by hand and a slow reference in plain Python."""

import math
import random

import pytest
import torch

from ray_jobs.waltzrl.algorithm.loss import (
    advantages,
    importance,
    k3,
    returns,
    surrogate,
    token_rewards,
    whiten,
)


def alone(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def slow_loss(samples: list[dict], beta: float, epsilon: float, cap: float) -> float:
    """The formulas of the module, token by token."""
    flat: list[list[float]] = []
    for sample in samples:
        rewards = [
            -beta * max(-10.0, min(10.0, old - ref))
            for old, ref in zip(sample["old"], sample["ref"], strict=True)
        ]
        rewards[-1] += sample["reward"]
        flat.append([sum(rewards[i:]) for i in range(len(rewards))])
    everything = [g for gs in flat for g in gs]
    mean = sum(everything) / len(everything)
    std = math.sqrt(sum((g - mean) ** 2 for g in everything) / len(everything))
    total = 0.0
    for sample, gs in zip(samples, flat, strict=True):
        for i, g in enumerate(gs):
            advantage = (g - mean) / (std + 1e-8)
            ratio = math.exp(sample["logp"][i] - sample["old"][i])
            clipped = max(1 - epsilon, min(1 + epsilon, ratio))
            weight = min(cap, math.exp(sample["old"][i] - sample["sampler"][i]))
            total -= weight * min(ratio * advantage, clipped * advantage)
    return total / len(everything)


def padded(samples: list[dict], name: str) -> torch.Tensor:
    width = max(len(s["old"]) for s in samples)
    rows = [s[name] + [0.0] * (width - len(s[name])) for s in samples]
    return torch.tensor(rows, dtype=torch.float64)


def random_samples(seed: int, number: int) -> list[dict]:
    rng = random.Random(seed)
    samples = []
    for _ in range(number):
        length = rng.randint(1, 9)
        draw = lambda n=length: [-3 * rng.random() for _ in range(n)]  # noqa: E731
        samples.append(
            {name: draw() for name in ("logp", "old", "ref", "sampler")}
            | {"reward": rng.choice([0.0, 1.0, 0.1])}
        )
    return samples


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_is_the_slow_reference(seed: int):
    samples = random_samples(seed, 12)
    logp, old, ref, sampler = (padded(samples, n) for n in ("logp", "old", "ref", "sampler"))
    lengths = torch.tensor([len(s["old"]) for s in samples])
    mask = (torch.arange(old.shape[1])[None] < lengths[:, None]).double()
    rewards = torch.tensor([s["reward"] for s in samples], dtype=torch.float64)
    advantage = advantages(rewards, old, ref, mask, 0.05, alone)
    terms = surrogate(logp, old, advantage, importance(old, sampler, 2.0), 0.2)
    got = (terms * mask).sum() / mask.sum()
    assert got.item() == pytest.approx(slow_loss(samples, 0.05, 0.2, 2.0), rel=1e-9)


def test_rewards_of_tokens_by_hand():
    old = torch.tensor([[-1.0, -2.0, 0.0]])
    ref = torch.tensor([[-1.5, -1.0, 0.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    got = token_rewards(torch.tensor([1.0]), old, ref, mask, beta=0.1)
    assert got.tolist() == [pytest.approx([-0.05, 0.1 + 1.0, 0.0])]
    assert returns(got).tolist() == [pytest.approx([1.05, 1.1, 0.0])]


def test_a_sample_without_a_token_or_without_a_judge_is_left_out():
    rewards = torch.tensor([1.0, 0.0, 5.0])
    logp = torch.zeros(3, 2)
    mask = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    got = advantages(rewards, logp, logp, mask, 0.0, alone)
    assert got[2].tolist() == [0.0, 0.0]
    assert got[0, 1] == 0
    without = advantages(rewards[:2], logp[:2], logp[:2], mask[:2], 0.0, alone)
    torch.testing.assert_close(got[:2], without)


def test_whitening_is_over_all_workers():
    values, mask = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), torch.ones(8, 5)
    whole = whiten(values, mask, alone)
    assert whole.mean().item() == pytest.approx(0, abs=1e-6)
    assert whole.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    halves = [values[:4], values[4:]]
    moments = torch.tensor([values.double().sum().item(), 40.0])
    squares = (values.double() - values.double().mean()).square().sum()[None]
    for half, expected in zip(halves, (whole[:4], whole[4:]), strict=True):
        sums = iter([moments.double(), squares])
        got = whiten(half, torch.ones(4, 5), lambda _, s=sums: next(s))
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_equal_returns_give_no_advantage_and_no_nan():
    logp, mask = torch.zeros(2, 3), torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    got = advantages(torch.ones(2), logp, logp, mask, 0.0, alone)
    assert got.abs().max().item() == 0


def test_the_gradient_vanishes_where_the_ratio_is_clipped():
    old = torch.zeros(1, 4)
    logp = torch.tensor([[math.log(1.5), math.log(1.5), math.log(0.5), math.log(0.5)]])
    logp.requires_grad_()
    advantage = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    surrogate(logp, old, advantage, torch.ones(1, 4), 0.2).sum().backward()
    # Too likely already and good: clipped. Too likely and bad: pushed. And the other way round.
    assert logp.grad is not None
    assert logp.grad[0].tolist() == pytest.approx([0.0, 1.5, -0.5, 0.0])


def test_importance_weights_are_truncated():
    got = importance(torch.tensor([0.0, 3.0, -1.0]), torch.zeros(3), cap=2.0)
    assert got.tolist() == pytest.approx([1.0, 2.0, math.exp(-1)])


def test_k3_is_the_kl_in_expectation_and_never_negative():
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(6, generator=generator).log_softmax(0)
    q = torch.randn(6, generator=generator).log_softmax(0)
    estimate = k3(p, q)
    assert (estimate >= 0).all()
    exact = (p.exp() * (p - q)).sum()
    assert (p.exp() * estimate).sum().item() == pytest.approx(exact.item(), rel=1e-5)
