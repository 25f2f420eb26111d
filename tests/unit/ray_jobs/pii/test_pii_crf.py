"""The tag chain against enumeration of all tag sequences."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.pii.crf import (
    Chain,
    TagChain,
    log_sums,
    negative_log_likelihood,
    segment_probability,
    viterbi,
)
from ray_jobs.pii.spans import TagScheme

SCHEME = TagScheme(("A", "B"))


def chain_of(generator: torch.Generator, scheme: TagScheme = SCHEME):
    chain = TagChain(scheme).double()
    with torch.no_grad():
        for parameter in chain.parameters():
            parameter.normal_(generator=generator)
    return chain.requires_grad_(False)


def valid_sequences(n_tokens: int) -> list[tuple[int, ...]]:
    return [
        tags
        for tags in itertools.product(range(SCHEME.n_tags), repeat=n_tokens)
        if SCHEME.starts[tags[0]]
        and SCHEME.ends[tags[-1]]
        and all(SCHEME.transitions[a, b] for a, b in itertools.pairwise(tags))
    ]


def score(tags, emissions, chain) -> float:
    total = chain.first[tags[0]] + chain.last[tags[-1]]
    total = total + sum(emissions[t, tag] for t, tag in enumerate(tags))
    return float(total + sum(chain.pairs[a, b] for a, b in itertools.pairwise(tags)))


@pytest.fixture(params=[0, 1, 2])
def case(request):
    """Emissions (3, 4, K) of documents of 4, 1 and 3 tokens, and a chain."""
    generator = torch.Generator().manual_seed(request.param)
    chain = chain_of(generator)
    emissions = 3 * torch.randn(3, 4, SCHEME.n_tags, generator=generator, dtype=torch.float64)
    return emissions, np.array([4, 1, 3]), chain


def test_viterbi_finds_the_best_of_all_valid_sequences(case):
    emissions, lengths, chain = case
    tags = viterbi(emissions.numpy(), lengths, Chain.of(chain))
    for document, length in enumerate(lengths.tolist()):
        own = emissions[document, :length]
        best = max(valid_sequences(length), key=lambda tags: score(tags, own, chain.scores()))
        assert tuple(tags[document, :length].tolist()) == best
        assert not tags[document, length:].any()


def test_likelihood_is_the_share_among_all_valid_sequences(case):
    emissions, lengths, chain = case
    tags = viterbi(emissions.numpy(), lengths, Chain.of(chain))
    losses = negative_log_likelihood(
        emissions, torch.from_numpy(tags), torch.from_numpy(lengths), chain.scores()
    )
    for document, length in enumerate(lengths.tolist()):
        own = emissions[document, :length]
        scores = [score(other, own, chain.scores()) for other in valid_sequences(length)]
        partition = torch.logsumexp(torch.tensor(scores, dtype=torch.float64), 0)
        expected = float(partition) - score(tags[document, :length], own, chain.scores())
        assert math.isclose(float(losses[document]), expected, abs_tol=1e-9)


@pytest.mark.parametrize("first,tags", [(0, [1, 3]), (1, [5, 6, 7]), (2, [4]), (3, [8])])
def test_segment_probability_is_the_share_of_the_sequences_with_it(case, first, tags):
    emissions, lengths, chain = case
    sums = log_sums(emissions.numpy(), lengths, Chain.of(chain))
    found = segment_probability(sums, Chain.of(chain), 0, first, np.array(tags))
    scores = chain.scores()
    weights = {tags: math.exp(score(tags, emissions[0], scores)) for tags in valid_sequences(4)}
    stop = first + len(tags)
    share = sum(w for path, w in weights.items() if list(path[first:stop]) == tags)
    assert math.isclose(found, share / sum(weights.values()), rel_tol=1e-9)


def test_marginals_sum_to_one_whatever_the_padding_holds(case):
    emissions, lengths, chain = case
    emissions[1, 1:], emissions[2, 3:] = 50.0, -50.0
    sums = log_sums(emissions.numpy(), lengths, Chain.of(chain))
    marginals = np.exp(sums.forward + sums.backward - sums.partition[:, None, None]).sum(2)
    for document, length in enumerate(lengths):
        assert np.allclose(marginals[document, :length], 1.0)


def test_sums_of_a_long_text_neither_overflow_nor_vanish():
    generator = torch.Generator().manual_seed(0)
    emissions = 40 * torch.randn(1, 5000, SCHEME.n_tags, generator=generator).double()
    sums = log_sums(emissions.numpy(), np.array([5000]), Chain.of(chain_of(generator)))
    marginals = np.exp(sums.forward + sums.backward - sums.partition[:, None, None]).sum(2)
    assert np.allclose(marginals, 1.0)


@pytest.mark.parametrize("n_tokens", [1, 4])
def test_a_forbidden_tag_far_above_all_others_leaves_finite_sums(n_tokens):
    generator = torch.Generator().manual_seed(0)
    chain = Chain.of(chain_of(generator))
    emissions = torch.randn(1, n_tokens, SCHEME.n_tags, generator=generator).double().numpy()
    for step in (0, -1):
        emissions[0, step, [1, 2, 3]] = -1000.0
        emissions[0, step, 2] = 2000.0  # I-A neither begins nor ends a text
        sums = log_sums(emissions, np.array([n_tokens]), chain)
        marginals = np.exp(sums.forward + sums.backward - sums.partition[:, None, None])
        assert np.allclose(marginals.sum(2), 1.0)
        found = segment_probability(sums, chain, 0, 0, np.array([4]))
        assert 0.0 < found == pytest.approx(marginals[0, 0, 4])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 4))
def test_no_transition_of_a_decoded_path_is_ever_invalid(seed, n_tokens, n_labels):
    scheme = TagScheme(tuple("ABCD"[:n_labels]))
    generator = torch.Generator().manual_seed(seed)
    emissions = 30 * torch.randn(2, n_tokens, scheme.n_tags, generator=generator).double()
    chain = Chain.of(chain_of(generator, scheme))
    for tags in viterbi(emissions.numpy(), np.array([n_tokens, n_tokens]), chain):
        assert scheme.starts[tags[0]] and scheme.ends[tags[-1]]
        assert scheme.transitions[tags[:-1], tags[1:]].all()


def test_gradients_are_finite_when_scores_are_far_apart():
    chain = TagChain(SCHEME)
    emissions = torch.full((1, 5, SCHEME.n_tags), -200.0)
    emissions[:, :, 0] = 200.0
    emissions.requires_grad_()
    tags = torch.tensor([[1, 3, 4, 0, 0]])
    negative_log_likelihood(emissions, tags, torch.tensor([5]), chain.scores()).sum().backward()
    assert torch.isfinite(emissions.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in chain.parameters())
