"""Continuous batching sampler: transformers' `generate_batch`, where a waiting request takes the
place of a finished one.

It pays on a GPU, where it brings paged attention, shared prefixes and CUDA graphs. Tokens are
drawn by `torch.multinomial` from a seed of (seed, first sample), but in which batch a token is
drawn depends on when requests were queued: two runs of the same seed differ, and so do a resumed
run and one that was never interrupted. Where that matters, use `hf`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedTokenizerBase

from data.errors import JobError
from ray_jobs.waltzrl.rollout.dialogue import Reply, Request
from ray_jobs.waltzrl.rollout.hf import (
    BUCKET_ROWS,
    GathersModel,
    Sampling,
    encoded,
    end_token_ids,
    reply_of,
)

PAGE_TOKENS = 256
"""Of the paged key-value cache."""
BATCH_TOKENS = 4096
"""Most tokens that one forward pass takes."""


class CBSampler:
    """Samples from one agent with `generate_batch`. Collective under ZeRO 3, as gathering is."""

    def __init__(
        self, agent: GathersModel, tokenizer: PreTrainedTokenizerBase, sampling: Sampling
    ) -> None:
        self._agent = agent
        self._tokenizer = tokenizer
        self._sampling = sampling

    @torch.no_grad()
    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply to each request, in their order.

        Raises:
            JobError: transformers lost a request.
        """
        prompts = encoded(self._tokenizer, requests)
        with self._agent.gathered() as model:
            if not requests:
                return []
            device = next(model.parameters()).device
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                return self._generate(model, prompts, requests)

    def _generate(
        self, model: nn.Module, prompts: list[list[int]], requests: Sequence[Request]
    ) -> list[Reply]:
        sampling = self._sampling
        ends = end_token_ids(model, self._tokenizer)
        found = model.generate_batch(
            prompts,
            generation_config=GenerationConfig(
                max_new_tokens=sampling.max_new_tokens,
                do_sample=True,
                temperature=sampling.temperature,
                top_k=0,
                top_p=1.0,
                eos_token_id=ends,
                pad_token_id=self._tokenizer.pad_token_id,
            ),
            continuous_batching_config=cache_config(prompts, requests, sampling),
            warmup=next(model.parameters()).device.type == "cuda",
        )
        failed = [each.error for each in found.values() if each.error is not None]
        if failed or len(found) != len(prompts):
            reason = failed[0] if failed else "no reply"
            raise JobError(
                f"continuous batching gave {len(found) - len(failed)} of {len(prompts)} replies: "
                f"{reason}; run again with --rollout hf"
            )
        return [
            reply_of(self._tokenizer, prompt, each.generated_tokens, each.logprobs, ends)
            for prompt, each in zip(prompts, found.values(), strict=True)
        ]


def cache_config(
    prompts: Sequence[Sequence[int]], requests: Sequence[Request], sampling: Sampling
) -> ContinuousBatchingConfig:
    """A cache for the longest replies to BUCKET_ROWS prompts, rather than for all free memory."""
    pages = sorted(
        (-(-(len(prompt) + sampling.max_new_tokens) // PAGE_TOKENS) for prompt in prompts),
        reverse=True,
    )
    first = requests[0]
    seed = np.random.SeedSequence([*sampling.seed, first.sample, first.turn]).generate_state(1)
    return ContinuousBatchingConfig(
        page_size=PAGE_TOKENS,
        num_blocks=sum(pages[:BUCKET_ROWS]) + 1,
        max_batch_tokens=BATCH_TOKENS,
        return_logprobs=True,
        seed=int(seed[0]),
    )
