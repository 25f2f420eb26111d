"""Sampling from a vLLM or SGLang server that holds the agent's weights.

Prompts and replies travel as token ids, so that no text is encoded twice in different ways. The
server's arithmetic is not the training's: training computes its own log-probabilities of the
sampled tokens, and truncated importance weights (`loss.py`) correct for the difference, which
the history shows as `drift`. Servers report log-probabilities of the logits before the
temperature, so only temperature 1 is sampled: the config refuses another.

vLLM draws from a seed of (seed, sample, turn); SGLang from its own, so there two runs differ.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from data.errors import DataError
from ray_jobs.waltzrl.model_server import ModelServer
from ray_jobs.waltzrl.rollout.dialogue import Reply, Request
from ray_jobs.waltzrl.rollout.hf import GathersModel, Sampling, encoded, reply_of

PARALLEL_CALLS = 64
"""Requests of one worker at a time; the server batches them."""
_NO_HABITS = {"top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Servers otherwise take a model's own from its generation_config.json."""


class HTTPSampler:
    """Samples from one agent through its server; collective, for the weights' sake."""

    def __init__(
        self,
        agent: GathersModel,
        tokenizer: PreTrainedTokenizerBase,
        sampling: Sampling,
        server: ModelServer,
    ) -> None:
        self._agent, self._tokenizer, self._sampling = agent, tokenizer, sampling
        self._server = server
        self._ends: list[int] = []

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply to each request, in their order.

        Raises:
            DataError: the server fails, or its answers lack tokens or log-probabilities.
        """
        self._ends = self._server.put(self._agent, self._tokenizer)
        prompts = encoded(self._tokenizer, requests)
        with ThreadPoolExecutor(PARALLEL_CALLS) as pool:
            return list(pool.map(self._reply, prompts, requests))

    def _reply(self, prompt: list[int], request: Request) -> Reply:
        if self._server.kind == "vllm":
            answer = self._server.ask("/v1/completions", self._vllm_body(prompt, request))
        else:
            answer = self._server.ask("/generate", self._sglang_body(prompt))
        try:
            read = _read_vllm if self._server.kind == "vllm" else _read_sglang
            tokens, logprobs, stopped = read(answer)
        except (LookupError, TypeError, ValueError) as error:
            raise DataError(
                f"{self._server.url}: an answer without token ids and log-probabilities "
                f"({type(error).__name__} {error}); is it a {self._server.kind} server?"
            ) from error
        if len(tokens) != len(logprobs) or (stopped and (tokens or [None])[-1] not in self._ends):
            raise DataError(
                f"{self._server.url}: {len(tokens)} tokens with {len(logprobs)} log-probabilities"
                f"{', ended without an end token' if stopped else ''}: not a reply to train on"
            )
        return reply_of(self._tokenizer, prompt, tokens, logprobs, self._ends)

    def _vllm_body(self, prompt: list[int], request: Request) -> dict[str, Any]:
        key = [*self._sampling.seed, request.sample, request.turn]
        return {
            "model": str(self._server.folder),
            "prompt": prompt,
            "max_tokens": self._sampling.max_new_tokens,
            "temperature": self._sampling.temperature,
            **_NO_HABITS,
            "top_k": 0,
            "seed": int(np.random.SeedSequence(key).generate_state(1)[0]),
            "stop_token_ids": self._ends,
            "logprobs": 1,
            "return_token_ids": True,
        }

    def _sglang_body(self, prompt: list[int]) -> dict[str, Any]:
        return {
            "input_ids": prompt,
            "sampling_params": {
                "max_new_tokens": self._sampling.max_new_tokens,
                "temperature": self._sampling.temperature,
                **_NO_HABITS,
                "top_k": -1,
                "stop_token_ids": self._ends,
            },
            "return_logprob": True,
        }


def _read_vllm(answer: Any) -> tuple[list[int], list[float], bool]:
    """(token ids, their log-probabilities, whether it ended of itself)."""
    choice = answer["choices"][0]
    logprobs = [float(each) for each in choice["logprobs"]["token_logprobs"]]
    return [int(i) for i in choice["token_ids"]], logprobs, choice["finish_reason"] == "stop"


def _read_sglang(answer: Any) -> tuple[list[int], list[float], bool]:
    """The same; SGLang lists (log-probability, token id, text) of every token."""
    about = answer["meta_info"]
    found = about["output_token_logprobs"]
    tokens, logprobs = [int(each[1]) for each in found], [float(each[0]) for each in found]
    return tokens, logprobs, about["finish_reason"]["type"] == "stop"
