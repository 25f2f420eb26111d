"""How well a quick linear probe on the latents tells tokens of personal data from others.

Two scores at each check of a trial, both F1 over tokens of the validation texts:

    validation_f1   a probe on all latents
    probe_f1        a probe on PROBE_LATENTS latents, the same few whatever the SAE's k, so that
                    SAEs of different k compare (sparse probing: the latents with the largest
                    difference between the class means, as in SAEBench, arXiv 2503.09532)

It ranks trials in a fraction of a second; the detector's classifiers are `ray_jobs.pii`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from data.documents import Document
from data.errors import DataError
from ray_jobs.activations.shards import ActivationSet
from ray_jobs.sae.model import TopKSAE

PROBE_LATENTS = 16
PROBE_TOKENS = 4096
"""Tokens to fit on, and as many to score on, spread over the set."""
FIT_STEPS = 60
LEARNING_RATE = 0.1


@dataclass(frozen=True)
class LabelledTokens:
    """Centred and scaled activations (N, d_in) and whether each is personal data, bool (N,)."""

    activations: Tensor
    positive: Tensor


@dataclass(frozen=True)
class ProbeData:
    """Tokens to fit a probe on, and tokens to score it on."""

    fit: LabelledTokens
    score: LabelledTokens


def labelled_tokens(
    activations: ActivationSet, documents: Sequence[Document], scaled_as: ActivationSet
) -> LabelledTokens:
    """PROBE_TOKENS tokens in runs of 64, evenly over the set; a token counts as personal data
    where it shares a character with a span of its document.

    Raises:
        DataError: all tokens are alike, so there is nothing to tell apart.
    """
    rows, positive = [], []
    for start in _starts(activations.n_rows):
        part = activations.rows(start, min(start + 64, activations.n_rows))
        rows.append(scaled_as.normalise(part.ordinary))
        kept = ~part.sink
        for document, begin, end in zip(
            part.document[kept].tolist(),
            part.start[kept].tolist(),
            part.end[kept].tolist(),
            strict=True,
        ):
            spans = documents[document].spans if document < len(documents) else ()
            positive.append(any(begin < span.end and end > span.start for span in spans))
    labels = torch.tensor(positive)
    if labels.all() or not labels.any():
        raise DataError(
            "no labelled span, or nothing else, in the tokens of a split: validation_f1 and "
            "probe_f1 need labelled texts; give --metric fvu"
        )
    return LabelledTokens(torch.cat(rows), labels)


def _starts(n_rows: int) -> list[int]:
    runs = min(PROBE_TOKENS, n_rows) // 64 or 1
    return [run * (n_rows // runs) for run in range(runs)]


def probe_metrics(sae: TopKSAE, data: ProbeData) -> dict[str, float]:
    """`validation_f1` and `probe_f1`; deterministic, leaves the SAE as it is."""
    fit, score = _latents(sae, data.fit), _latents(sae, data.score)
    few = _telling_latents(fit, sae.n_latents)
    return {
        "validation_f1": _fit_and_score(fit, score, None, sae.n_latents),
        "probe_f1": _fit_and_score(fit, score, few, sae.n_latents),
    }


@dataclass(frozen=True)
class _Latents:
    """Indices and values (N, k) of the active latents, labels (N,) as 0.0 and 1.0."""

    indices: Tensor
    values: Tensor
    labels: Tensor


@torch.no_grad()
def _latents(sae: TopKSAE, tokens: LabelledTokens) -> _Latents:
    device = sae.W_enc.device
    values, indices = sae.encode(tokens.activations.to(device))
    return _Latents(indices, values.float(), tokens.positive.float().to(device))


def _telling_latents(latents: _Latents, n_latents: int) -> Tensor:
    """float (n_latents,): 1 for the PROBE_LATENTS whose means differ most between the classes."""
    means = []
    for label in (0.0, 1.0):
        chosen = latents.labels == label
        total = torch.zeros(n_latents, device=latents.values.device)
        total.index_add_(0, latents.indices[chosen].flatten(), latents.values[chosen].flatten())
        means.append(total / chosen.sum())
    best = (means[1] - means[0]).abs().topk(min(PROBE_LATENTS, n_latents)).indices
    return torch.zeros(n_latents, device=best.device).index_fill_(0, best, 1.0)


def _fit_and_score(fit: _Latents, score: _Latents, mask: Tensor | None, n_latents: int) -> float:
    """Logistic regression by Adam over all tokens at once, from zero; no randomness."""
    scale = _inverse_rms(fit, n_latents)
    scale = scale if mask is None else scale * mask
    weight = torch.zeros(n_latents, 1, device=scale.device, requires_grad=True)
    bias = torch.zeros(1, device=scale.device, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=LEARNING_RATE)

    def logits(latents: _Latents) -> Tensor:
        values = latents.values * scale[latents.indices]
        bags = F.embedding_bag(latents.indices, weight, mode="sum", per_sample_weights=values)
        return bags[:, 0] + bias

    with torch.enable_grad():
        for _ in range(FIT_STEPS):
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(logits(fit), fit.labels).backward()
            optimizer.step()
    with torch.no_grad():
        return _f1(logits(score), score.labels, _best_threshold(logits(fit), fit.labels))


def _inverse_rms(latents: _Latents, n_latents: int) -> Tensor:
    flat, values = latents.indices.flatten(), latents.values.flatten()
    squares = torch.zeros(n_latents, device=values.device).index_add_(0, flat, values.square())
    counts = torch.bincount(flat, minlength=n_latents).clamp_min(1)
    return (squares / counts).sqrt().clamp_min(1e-6).reciprocal()


def _best_threshold(logits: Tensor, labels: Tensor) -> Tensor:
    """The logit from which on calling tokens positive gives the highest F1."""
    ordered, order = logits.sort(descending=True)
    hits = labels[order].cumsum(0)
    called = torch.arange(1, len(hits) + 1, device=hits.device)
    return ordered[(2 * hits / (called + labels.sum())).argmax()]


def _f1(logits: Tensor, labels: Tensor, threshold: Tensor) -> float:
    called = logits >= threshold
    hits = labels[called].sum()
    return (2 * hits / (called.sum() + labels.sum()).clamp_min(1)).item()
