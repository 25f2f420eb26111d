"""Training of token probes: AdamW on the likelihood of a CRF over linear emissions.

The same recipe serves latents and raw activations. The probe itself is `classifier.TokenProbe`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data.errors import NonFiniteError
from ray_jobs.pii.classifier import TokenProbe, batches_of
from ray_jobs.pii.config import Descent, ProbeConfig
from ray_jobs.pii.crf import negative_log_likelihood
from ray_jobs.pii.features import Features, document_rows
from ray_jobs.pii.spans import OUTSIDE, TagScheme


@dataclass(frozen=True)
class TaggedTokens:
    """Documents end to end: features, surface categories (N,), tags (N,), tokens of each."""

    features: Features
    surface: Tensor
    tags: Tensor
    lengths: tuple[int, ...]


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


@torch.no_grad()
def _fold(probe: TokenProbe, location: Tensor, scale: Tensor) -> None:
    """Make the probe read features as they come instead of standardised ones."""
    probe.weight /= scale[:, None]
    probe.bias -= location @ probe.weight
