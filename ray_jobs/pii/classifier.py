"""Classifier: a linear token probe with its threshold, and the files it is kept in.

A folder holds `model.safetensors` (weights of the probe) and `config.json` (labels, window,
threshold, and the host model and SAE whose features it reads).
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from data.errors import DataError
from data.storage import Store
from ray_jobs.activations.sinks import SinkRule
from ray_jobs.pii.crf import Chain, TagChain, log_sums, segment_probability, viterbi
from ray_jobs.pii.features import (
    N_SURFACE,
    Features,
    document_rows,
    features_of,
    surface_categories,
)
from ray_jobs.pii.spans import OUTSIDE, PIISpan, TagScheme, character_segments
from ray_jobs.pii.structure import find_structures, with_structures
from ray_jobs.sae.model import TopKSAE

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
_FORMAT = "raylambda-pii-classifier-1"
_SINK_CENTRE = "sink_centre"
_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Origin:
    """What a classifier's features come from; all of it must be the same when it is used."""

    host: str
    """Name or folder of the host model."""
    layer: int
    dtype: str
    host_fingerprint: str
    encoder: str
    """Fingerprint of the SAE, or "raw"."""


@dataclass(frozen=True)
class Text:
    """A text and the character offsets (T, 2) of its tokens."""

    text: str
    offsets: np.ndarray


def surface_of(texts: Sequence[Text]) -> Tensor:
    """Surface categories (N,) of all tokens, end to end."""
    return torch.from_numpy(
        np.concatenate([surface_categories(text.text, text.offsets) for text in texts])
    )


class TokenProbe(nn.Module):
    """Weights (n_features, (2 window + 1) n_tags), as many for the surface categories, one
    bias per offset and tag, a TagChain.

    A tag's score at a token is a linear function of the features and the surface category
    (`features.py`) of that token and of its neighbours up to `window` tokens away; the CRF adds
    one learned score per pair of neighbouring tags and nothing else. A neighbour beyond the
    document's edge adds nothing, not even its bias, which lets the probe see the edge.
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


@dataclass(frozen=True)
class Batch:
    """Some documents by number, their tokens (B,), and tag scores (B, T, K)."""

    documents: list[int]
    lengths: np.ndarray
    emissions: np.ndarray


@dataclass(frozen=True)
class Classifier:
    """Turns features of tokens into spans.

    threshold   in (0, 1): how probable O must be, against the best tag, to win a token; it
                enters as log(threshold / (1 - threshold)) on the score of O. 0.5 is the
                plain Viterbi path, less finds more spans.
    sinks       tells the host's attention sinks, whose features are those of an average token
    """

    probe: TokenProbe
    threshold: float
    origin: Origin
    sinks: SinkRule | None = None

    def features(self, activations: Tensor, sae: TopKSAE | None) -> Features:
        """What the probe reads of activations (N, d_in); `sae` is the one it was trained with."""
        return features_of(activations, sae, self.sinks)

    def spans(self, texts: list[Text], features: Features) -> list[list[PIISpan]]:
        """Spans of each text in order; `features` are those of all their tokens, end to end.

        What its form proves to be one of this classifier's types stands in place of what the
        probe says of the same characters (see `structure`).
        """
        found: list[list[PIISpan]] = [[] for _ in texts]
        labels = self.probe.scheme.labels
        for batch in self.emissions(texts, features):
            spans = self._decode(batch, [texts[d] for d in batch.documents])
            for document, its_spans in zip(batch.documents, spans, strict=True):
                structures = find_structures(texts[document].text)
                found[document] = with_structures(its_spans, structures, labels)
        return found

    def _decode(self, batch: "Batch", texts: list[Text]) -> list[list[PIISpan]]:
        """Spans of the batch's documents, with their probabilities."""
        sums = log_sums(batch.emissions, batch.lengths, self._chain)
        spans: list[list[PIISpan]] = []
        for row, (text, path) in enumerate(zip(texts, self.paths(batch), strict=True)):
            spans.append([])
            for part in character_segments(text.text, text.offsets, self.probe.scheme, path):
                tags = path[part.first : part.stop]
                score = segment_probability(sums, self._chain, row, part.first, tags)
                spans[-1].append(PIISpan(part.start, part.end, part.label, score))
        return spans

    @cached_property
    def _chain(self) -> Chain:
        return Chain.of(self.probe.chain)

    @torch.inference_mode()
    def emissions(self, texts: Sequence[Text], features: Features) -> Iterator["Batch"]:
        """Tag scores of all tokens, in batches of documents of bounded size."""
        lengths = [len(text.offsets) for text in texts]
        if sum(lengths) != len(features):
            raise ValueError(f"{len(features)} rows of features for {sum(lengths)} tokens")
        for documents in batches_of(lengths, _BATCH_TOKENS):
            own = torch.tensor([lengths[d] for d in documents])
            surface = surface_of([texts[d] for d in documents])
            some = features.take(document_rows(lengths, documents))
            emissions = self.probe.emissions(some, surface, own)
            yield Batch(documents, own.numpy(), emissions.double().numpy())

    def paths(self, batch: "Batch") -> list[np.ndarray]:
        """The valid tags (T,) of each document of a batch, under this classifier's threshold."""
        shift = np.zeros(batch.emissions.shape[2])
        shift[OUTSIDE] = math.log(self.threshold / (1 - self.threshold))
        tags = viterbi(batch.emissions + shift, batch.lengths, self._chain)
        return [row[:n] for row, n in zip(tags, batch.lengths.tolist(), strict=True)]

    def save(self, store: Store) -> None:
        """Write the two files, weights first, into a store's directory."""
        weights = {name: value.contiguous() for name, value in self.probe.state_dict().items()}
        if self.sinks is not None:
            weights[_SINK_CENTRE] = self.sinks.centre
        store.write_bytes(WEIGHTS_NAME, save(weights))
        config = {
            "format": _FORMAT,
            "labels": list(self.probe.scheme.labels),
            "window": self.probe.window,
            "n_features": self.probe.weight.shape[0],
            "threshold": self.threshold,
            "sink_radius": None if self.sinks is None else self.sinks.radius,
            "origin": asdict(self.origin),
        }
        store.write_json(CONFIG_NAME, config)

    @classmethod
    def load(cls, folder: Path) -> "Classifier":
        """Read a folder that `save` wrote. Raises DataError naming the file that is no good."""
        path = folder / CONFIG_NAME
        try:
            config = json.loads(path.read_text())
            if config["format"] != _FORMAT:
                raise ValueError(f"format {config['format']!r} is not {_FORMAT!r}")
            scheme = TagScheme(tuple(config["labels"]))
            probe = TokenProbe(config["n_features"], config["window"], scheme)
            threshold, origin = float(config["threshold"]), Origin(**config["origin"])
            path = folder / WEIGHTS_NAME
            weights = load_file(path)
            centre, radius = weights.pop(_SINK_CENTRE, None), config.get("sink_radius")
            sinks = None if centre is None else SinkRule(centre, float(radius))
            probe.load_state_dict(weights)
            classifier = cls(probe.eval(), threshold, origin, sinks)
        except FileNotFoundError as error:
            raise DataError(f"classifier {folder}: {path.name} is missing") from error
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            problem = str(error).strip().split("\n", 1)[0]
            raise DataError(
                f"classifier {folder}: {path.name} cannot be read: {problem}"
            ) from error
        return classifier
