"""HF sampler: transformers' `generate` over buckets of prompts of like length; the default.

Every reply has the log-probability of each token. Its randomness is one uniform number a token, a
function of (seed, sample, turn, position) alone, turned into a token by the inverse of the
cumulative distribution. So a reply depends neither on the batch it is sampled in nor on the number
of workers, up to rounding.
"""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
)

from data.errors import ConfigError
from ray_jobs.waltzrl.rollout.dialogue import Reply, Request

logger = logging.getLogger(__name__)

BUCKET_ROWS = 256
"""Prompts generated together; sorted by length first, so that little is padding."""


@dataclass
class GenerationBatchSize:
    """Replies that a worker generates side by side; samplers halve it where memory is short."""

    rows: int = BUCKET_ROWS


class GathersModel(Protocol):
    """What a sampler samples from: `policy.Policy` and `policy.Reference`."""

    def gathered(self) -> AbstractContextManager[nn.Module]: ...


@dataclass(frozen=True)
class Sampling:
    """`seed` must be new for every step of every stage."""

    temperature: float
    max_new_tokens: int
    seed: tuple[int, ...]


class HFSampler:
    """Samples from one agent with `generate`. Collective under ZeRO 3, as gathering is."""

    def __init__(
        self,
        agent: GathersModel,
        tokenizer: PreTrainedTokenizerBase,
        sampling: Sampling,
        batch_size: GenerationBatchSize | None = None,
    ) -> None:
        self._agent = agent
        self._tokenizer = tokenizer
        self._sampling = sampling
        self._batch_size = batch_size or GenerationBatchSize()

    @torch.no_grad()
    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply to each request, in their order. A worker whose memory is too small for all of
        them generates fewer at once, whatever the others do.

        Raises:
            ConfigError: not even one reply at a time fits.
        """
        replies: list[Reply | None] = [None] * len(requests)
        prompts = encoded(self._tokenizer, requests)
        by_length = sorted(range(len(requests)), key=lambda i: len(prompts[i]))
        with self._agent.gathered() as model:
            start = 0
            while start < len(by_length):
                bucket = by_length[start : start + self._batch_size.rows]
                chosen = [requests[i] for i in bucket]
                found = self._if_it_fits(model, [prompts[i] for i in bucket], chosen)
                for i, reply in zip(bucket, found, strict=False):
                    replies[i] = reply
                start += len(found)
        return [reply for reply in replies if reply is not None]

    def _if_it_fits(
        self, model: nn.Module, prompts: list[list[int]], requests: list[Request]
    ) -> list[Reply]:
        """All replies, or none and from now on half as many at once."""
        try:
            return self._bucket(model, prompts, requests)
        except torch.OutOfMemoryError as error:
            if len(requests) == 1:
                raise ConfigError(
                    "max_answer_tokens",
                    "one reply at a time does not fit into a worker's memory: give fewer, or "
                    "zero_stage 3, offload_optimizer or more workers",
                ) from error
        self._batch_size.rows = len(requests) // 2
        logger.warning(
            "waltz  %d replies at once do not fit into a worker's memory: continuing with %d",
            *(len(requests), self._batch_size.rows),
        )
        return []

    def _bucket(
        self, model: nn.Module, prompts: list[list[int]], requests: list[Request]
    ) -> list[Reply]:
        device = next(model.parameters()).device
        padding = self._tokenizer.pad_token_id
        width = max(map(len, prompts))
        ids = torch.tensor([[padding] * (width - len(p)) + p for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        ends = end_token_ids(model, self._tokenizer)
        draws = _InverseCDF(uniforms(requests, self._sampling).to(device), self._sampling)
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=GenerationConfig(
                max_new_tokens=self._sampling.max_new_tokens,
                do_sample=False,
                repetition_penalty=1.0,  # else the model's own habit bends the distribution
                eos_token_id=ends,
                pad_token_id=padding,
            ),
            logits_processor=LogitsProcessorList([draws]),
        )
        tokens = out[:, width:].tolist()
        logprobs = torch.stack(draws.logprobs, dim=1).tolist()
        return [
            reply_of(self._tokenizer, prompt, row, logps, ends)
            for prompt, row, logps in zip(prompts, tokens, logprobs, strict=True)
        ]


def encoded(tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request]) -> list[list[int]]:
    """Token ids of every request's messages, up to where the reply begins."""
    if not requests:
        return []
    texts = tokenizer.apply_chat_template(
        [list(request.messages) for request in requests],
        add_generation_prompt=True,
        tokenize=False,
    )
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def reply_of(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[int],
    tokens: Sequence[int],
    logprobs: Sequence[float],
    ends: Sequence[int],
) -> Reply:
    """What was sampled up to its end token, which stays; later tokens are padding."""
    length = next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))
    text = tokenizer.decode(tokens[:length], skip_special_tokens=True)
    return Reply(text, tuple(prompt), tuple(tokens[:length]), tuple(logprobs[:length]))


class _InverseCDF(LogitsProcessor):
    """Leaves one token possible, drawn from softmax(logits / temperature), and keeps its logp."""

    def __init__(self, numbers: Tensor, sampling: Sampling) -> None:
        self._numbers = numbers
        self._temperature = sampling.temperature
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logp = (scores.float() / self._temperature).log_softmax(dim=-1)
        cumulative = logp.exp().cumsum(dim=-1)
        threshold = self._numbers[:, len(self.logprobs), None] * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, threshold, right=True)
        token = token.clamp(max=scores.shape[1] - 1)
        self.logprobs.append(logp.gather(1, token).squeeze(1))
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


def uniforms(requests: Sequence[Request], sampling: Sampling) -> Tensor:
    """(B, max_new_tokens) numbers in [0, 1), by seed, sample and turn."""
    rows = [
        np.random.default_rng([*sampling.seed, r.sample, r.turn]).random(
            sampling.max_new_tokens, dtype=np.float32
        )
        for r in requests
    ]
    return torch.from_numpy(np.stack(rows))


def end_token_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a reply: the model's own (Llama 3 has several) or the tokenizer's."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = tokenizer.eos_token_id
    return list(ends) if isinstance(ends, list) else [ends]
