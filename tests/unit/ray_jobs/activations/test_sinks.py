"""Which tokens are attention sinks: planted ones among activations like real ones."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.activations.sinks import SAMPLE_TEXTS, find_sink_rule, sample


def texts(seed: int, *, n: int = 40, length: int = 30, d: int = 48, mean: float = 0.0):
    """Activations of unequal dimensions, each text's first token a sink of `factor` norms."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(-1, 1, d)
    found = []
    for _ in range(n):
        tokens = max(1, int(torch.randint(1, length, (), generator=generator)))
        found.append(torch.randn(tokens, d, generator=generator) * scales + mean)
    return found


@settings(deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.0, 3.0, 200.0]), st.floats(8.0, 1000.0))
def test_planted_sinks_are_found_and_nothing_else(seed, mean, factor):
    sample = texts(seed, mean=mean)
    ordinary = torch.cat([rows[1:] for rows in sample])
    spread = (ordinary - ordinary.mean(0)).norm(dim=1).median()
    direction = torch.nn.functional.normalize(torch.ones(48), dim=0)
    for rows in sample:
        rows[0] = mean + factor * spread * direction
    rule = find_sink_rule(sample)
    for rows in sample:
        assert rule.is_sink(rows).tolist() == [True] + [False] * (len(rows) - 1)


def test_sinks_in_the_middle_of_texts_do_not_move_the_rule():
    sample = texts(1)
    before = find_sink_rule(sample)
    for rows in sample[::3]:
        rows[len(rows) // 2] = 500.0
    after = find_sink_rule(sample)
    assert after.radius == pytest.approx(before.radius, rel=0.1)
    assert all(after.is_sink(rows)[len(rows) // 2] for rows in sample[::3])


def test_an_encoder_without_sinks_has_none():
    rows = [torch.nn.functional.layer_norm(each, (48,)) for each in texts(2)]
    assert not any(find_sink_rule(rows).is_sink(each).any() for each in rows)


def test_texts_of_one_token_and_rows_all_alike():
    alone = [torch.randn(1, 8) for _ in range(5)]
    assert math.isfinite(find_sink_rule(alone).radius)
    alike = [torch.ones(6, 8) for _ in range(3)]
    assert find_sink_rule(alike).radius == math.inf


def test_the_sample_is_spread_over_the_corpus():
    for n_texts in (65, 127, 1000):
        chosen = sample(n_texts)
        assert len(set(chosen)) == SAMPLE_TEXTS
        assert chosen[0] == 0 and n_texts - n_texts / SAMPLE_TEXTS - 1 <= chosen[-1] < n_texts
    assert sample(2) == [0, 1] and sample(0) == []
