"""Linear token probes and their training: emissions linear in the features, a CRF on top.

A tag's score at a token is a linear function of the features and the surface category
(`features.py`) of that token and of its neighbours up to `window` tokens away; the CRF adds
one learned score per pair of neighbouring tags and nothing else. The same recipe serves
latents and raw activations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data.errors import NonFiniteError
from ray_jobs.pii.config import Descent, ProbeConfig
from ray_jobs.pii.crf import TagChain, negative_log_likelihood
from ray_jobs.pii.features import N_SURFACE, Features, document_rows
from ray_jobs.pii.spans import OUTSIDE, TagScheme


@dataclass(frozen=True)
class TaggedTokens:
    """Documents end to end: features, surface categories (N,), tags (N,), tokens of each."""

    features: Features
    surface: Tensor
    tags: Tensor
    lengths: tuple[int, ...]


class TokenProbe(nn.Module):
    """Weights (n_features, (2 window + 1) n_tags), as many for the surface categories, one
    bias per offset and tag, a TagChain.

    A neighbour beyond the document's edge adds nothing, not even its bias, which lets the
    probe see the edge.
    """

    def __init__(self, n_features: int, window: int, scheme: TagScheme) -> None:
        super().__init__()
        self.window = window
        self.scheme = scheme
        width = (2 * window + 1) * scheme.n_tags
        self.weight = nn.Parameter(torch.zeros(n_features, width))
        self.surface = nn.Parameter(torch.zeros(N_SURFACE, width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.chain = TagChain(scheme)

    def emissions(self, features: Features, surface: Tensor, lengths: Tensor) -> Tensor:
        """Tag scores (B, T, K) of B documents' tokens laid end to end, T the longest."""
        scores = features.project(self.weight) + self.surface[surface] + self.bias
        return self.in_context(scores, lengths)

    def in_context(self, scores: Tensor, lengths: Tensor) -> Tensor:
        """Sum, at each token, what its neighbours at every offset say about it."""
        n_steps, window, n_tags = int(lengths.max()), self.window, self.scheme.n_tags
        padded_steps = n_steps + 2 * window
        document = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        starts = lengths.cumsum(0) - lengths
        step = torch.arange(len(scores)) - starts[document] + window
        padded = scores.new_zeros(len(lengths) * padded_steps, scores.shape[1])
        padded = padded.index_copy(0, document * padded_steps + step, scores)
        padded = padded.view(len(lengths), padded_steps, 2 * window + 1, n_tags)
        context = padded[:, :n_steps, 0]
        for offset in range(1, 2 * window + 1):
            context = context + padded[:, offset : offset + n_steps, offset]
        return context


Report = Callable[[int, int, float], None]
"""Called after each epoch with tokens done, tokens in all, and the epoch's mean loss."""


def fit(
    data: TaggedTokens,
    scheme: TagScheme,
    config: ProbeConfig,
    descent: Descent,
    report: Report | None = None,
) -> TokenProbe:
    """Train a probe by AdamW on the CRF's likelihood; same data, config and seed, same bits.

    Features are standardised (raw) or scaled (latents) while training; that is folded
    into weight and bias at the end. Raises NonFiniteError naming the step of a bad loss.
    """
    location, scale = data.features.location_and_scale()
    probe = TokenProbe(data.features.n_features, config.window, scheme)
    groups = [
        {"params": [probe.weight], "weight_decay": descent.weight_decay},
        {"params": [probe.surface, probe.bias, *probe.chain.parameters()], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups, descent.learning_rate, betas=(0.9, 0.99), eps=descent.epsilon, fused=True
    )
    generator = torch.Generator().manual_seed(config.seed)
    batches = batches_of(data.lengths, config.batch_tokens)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=descent.learning_rate,
        total_steps=config.epochs * len(batches),
        pct_start=0.1,
        cycle_momentum=False,
    )
    for epoch in range(config.epochs):
        total = 0.0
        for step, number in enumerate(torch.randperm(len(batches), generator=generator).tolist()):
            loss = _loss(probe, data, batches[number], location, scale)
            if not torch.isfinite(loss):
                raise NonFiniteError(
                    f"probe training: loss is {loss.item()} in epoch {epoch + 1}, step {step + 1};"
                    " look for a NaN in the activations"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        if report:
            done = (epoch + 1) * len(data.tags)
            report(done, config.epochs * len(data.tags), total / len(batches))
    _fold(probe, location, scale)
    return probe.eval()


def _loss(
    probe: TokenProbe, data: TaggedTokens, documents: list[int], location: Tensor, scale: Tensor
) -> Tensor:
    """Mean negative log-likelihood per token of some documents."""
    rows = document_rows(data.lengths, documents)
    lengths = torch.tensor([data.lengths[d] for d in documents])
    weight = probe.weight / scale[:, None]
    bias = probe.bias - location @ weight
    scores = data.features.take(rows).project(weight) + probe.surface[data.surface[rows]] + bias
    emissions = probe.in_context(scores, lengths)
    tags = nn.utils.rnn.pad_sequence(
        list(data.tags[rows].split(lengths.tolist())), batch_first=True, padding_value=OUTSIDE
    )
    losses = negative_log_likelihood(emissions, tags, lengths, probe.chain.scores())
    return losses.sum() / len(rows)


def batches_of(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Documents of like length together, at most `batch_tokens` padded tokens each.

    A longer document is a batch of its own; one without tokens is in no batch.
    """
    batches: list[list[int]] = []
    current: list[int] = []
    for document in sorted(range(len(lengths)), key=lambda d: (lengths[d], d)):
        if lengths[document] == 0:
            continue
        if current and (len(current) + 1) * lengths[document] > batch_tokens:
            batches.append(current)
            current = []
        current.append(document)
    return batches + [current] if current else batches


@torch.no_grad()
def _fold(probe: TokenProbe, location: Tensor, scale: Tensor) -> None:
    """Make the probe read features as they come instead of standardised ones."""
    probe.weight /= scale[:, None]
    probe.bias -= location @ probe.weight
