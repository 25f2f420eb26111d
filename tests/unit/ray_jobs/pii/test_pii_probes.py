"""Token probes: planted signals, determinism, fairness of latents and raw, batches."""

import dataclasses

import numpy as np
import pytest
import torch

from data.errors import ConfigError, NonFiniteError
from ray_jobs.pii.classifier import TokenProbe, batches_of
from ray_jobs.pii.config import Descent, ProbeConfig
from ray_jobs.pii.crf import Chain, viterbi
from ray_jobs.pii.features import LatentFeatures, RawFeatures, document_rows
from ray_jobs.pii.probes import TaggedTokens, fit
from ray_jobs.pii.spans import TagScheme

SCHEME = TagScheme(("A", "B"))
CONFIG = ProbeConfig(window=1, epochs=10, batch_tokens=200)
DESCENT = Descent(0.05, 0.01, 1e-8)
N_LATENTS, K = 24, 3


def planted(kind: str, seed: int) -> TaggedTokens:
    """200 documents whose spans of two tokens show in a latent of their first token alone.

    The second token of a span looks like any other: only its neighbour tells.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths, tags, hints = [], [], []
    for number in range(200):
        length = 3 + number % 6
        lengths.append(length)
        own, hint = torch.zeros(length, dtype=torch.long), torch.zeros(length, dtype=torch.long)
        label = number % 2
        at = int(torch.randint(length - 1, (1,), generator=generator))
        own[at], own[at + 1] = 1 + 4 * label, 3 + 4 * label
        hint[at] = 1 + label
        tags.append(own)
        hints.append(hint)
    hint = torch.cat(hints)
    noise = torch.randint(3, N_LATENTS, (len(hint), K - 1), generator=generator)
    indices = torch.cat([hint[:, None], noise], 1).int()
    values = torch.rand(len(hint), K, generator=generator) + 0.5
    latents = LatentFeatures(indices, values, N_LATENTS)
    dense = torch.zeros(len(hint), N_LATENTS).scatter_add_(1, indices.long(), values)
    features = latents if kind == "latents" else RawFeatures(5 * dense + 100)
    surface = torch.zeros(len(hint), dtype=torch.long)
    return TaggedTokens(features, surface, torch.cat(tags), tuple(lengths))


def accuracy(probe: TokenProbe, data: TaggedTokens) -> float:
    lengths = torch.tensor(data.lengths)
    with torch.no_grad():
        emissions = probe.emissions(data.features, data.surface, lengths).double().numpy()
    paths = viterbi(emissions, lengths.numpy(), Chain.of(probe.chain))
    found = np.concatenate([path[:n] for path, n in zip(paths, data.lengths, strict=True)])
    return float((found == data.tags.numpy()).mean())


@pytest.mark.parametrize("kind", ["latents", "raw"])
def test_a_planted_signal_is_learned(kind):
    probe = fit(planted(kind, 0), SCHEME, CONFIG, DESCENT)
    assert accuracy(probe, planted(kind, 1)) > 0.99


@pytest.mark.parametrize("kind", ["latents", "raw"])
def test_same_seed_same_bits(kind):
    config = dataclasses.replace(CONFIG, epochs=3)
    first, again = (fit(planted(kind, 0), SCHEME, config, DESCENT).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = fit(planted(kind, 0), SCHEME, dataclasses.replace(config, seed=1), DESCENT).state_dict()
    assert not torch.equal(first["weight"], other["weight"])


def test_what_only_the_surface_shows_is_learned():
    data = planted("raw", 0)
    shown = TaggedTokens(
        RawFeatures(torch.zeros(len(data.tags), 1)), data.tags.clone(), data.tags, data.lengths
    )
    config = dataclasses.replace(CONFIG, window=0)
    probe = fit(shown, SCHEME, config, DESCENT)
    assert accuracy(probe, shown) > 0.99
    hidden = dataclasses.replace(shown, surface=torch.zeros_like(data.tags))
    assert accuracy(fit(hidden, SCHEME, config, DESCENT), hidden) < 0.9


def test_latents_and_the_same_numbers_dense_give_the_same_scores():
    data = planted("latents", 0)
    latents = data.features
    dense = torch.zeros(len(latents), N_LATENTS)
    dense.scatter_add_(1, latents.indices.long(), latents.values)
    weight = torch.randn(N_LATENTS, 7, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(latents.project(weight), RawFeatures(dense).project(weight), atol=1e-5)


def test_a_neighbour_beyond_the_edge_of_a_document_says_nothing():
    probe = TokenProbe(1, 1, SCHEME)
    with torch.no_grad():
        probe.weight[0, : SCHEME.n_tags] = 1.0  # what the token before says
        probe.weight[0, -SCHEME.n_tags :] = 10.0  # what the token behind says
    features = RawFeatures(torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]]))
    scores = probe.emissions(features, torch.zeros(5, dtype=torch.long), torch.tensor([3, 2]))[
        :, :, 0
    ]
    assert scores[0].tolist() == [20.0, 31.0, 2.0]
    assert scores[1, :2].tolist() == [50.0, 4.0]


def test_the_probe_reads_features_as_they_come():
    data = planted("raw", 0)
    location, scale = data.features.location_and_scale()
    assert torch.allclose(location, data.features.activations.mean(0), atol=1e-3)
    varied = data.features.activations.std(0, correction=0) > 1e-6
    expected = data.features.activations.std(0, correction=0)[varied]
    assert torch.allclose(scale[varied], expected, rtol=1e-4)


def test_latents_are_scaled_where_they_are_active():
    features = LatentFeatures(
        torch.tensor([[0, 1], [0, 2]], dtype=torch.int32),
        torch.tensor([[3.0, 0.0], [4.0, 2.0]]),
        4,
    )
    location, scale = features.location_and_scale()
    assert location.tolist() == [0.0] * 4
    assert scale.tolist() == pytest.approx([12.5**0.5, 1.0, 2.0, 1.0])


def test_progress_counts_tokens_to_the_end():
    data, seen = planted("latents", 0), []
    fit(
        data,
        SCHEME,
        dataclasses.replace(CONFIG, epochs=3),
        DESCENT,
        lambda *line: seen.append(line),
    )
    tokens = len(data.tags)
    assert [line[:2] for line in seen] == [(tokens * n, tokens * 3) for n in (1, 2, 3)]
    assert seen[-1][2] < seen[0][2]


def test_a_nan_stops_the_training_with_its_place():
    data = planted("raw", 0)
    data.features.activations[7, 3] = float("nan")
    with pytest.raises(NonFiniteError, match="epoch 1, step 1"):
        fit(data, SCHEME, CONFIG, DESCENT)


def test_batches_hold_each_document_once_and_stay_within_their_size():
    lengths = [5, 0, 3, 12, 3, 7, 1]
    batches = batches_of(lengths, batch_tokens=10)
    assert sorted(d for batch in batches for d in batch) == [0, 2, 3, 4, 5, 6]
    for batch in batches:
        padded = len(batch) * max(lengths[d] for d in batch)
        assert padded <= 10 or len(batch) == 1
    assert batches_of([0, 0], 10) == []


def test_rows_of_documents():
    assert document_rows([2, 0, 3], [2, 0]).tolist() == [2, 3, 4, 0, 1]
    assert document_rows([2], []).tolist() == []


@pytest.mark.parametrize(
    "field,value",
    [
        ("window", -1),
        ("raw_weight_decay", -1.0),
        ("epochs", 0),
        ("raw_learning_rate", 0.0),
        ("latents_epsilon", 0.0),
        ("recall_weight", -1.0),
    ],
)
def test_a_bad_field_is_named(field, value):
    with pytest.raises(ConfigError, match=f"^{field}: "):
        ProbeConfig(**{field: value})
