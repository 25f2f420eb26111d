"""HTTP sampler: a vLLM or SGLang server, kept at the agent's weights, that samples its replies.

Prompts and replies travel as token ids, so that no text is encoded twice in different ways. The
server's arithmetic is not the training's: training computes its own log-probabilities of the
sampled tokens, and truncated importance weights (`loss.py`) correct for the difference, which
the history shows as `drift`. Servers report log-probabilities of the logits before the
temperature, so only temperature 1 is sampled: the config refuses another.

vLLM draws from a seed of (seed, sample, turn); SGLang from its own, so there two runs differ.

    vllm@http://host:8000@/shared/conversation
        VLLM_SERVER_DEV_MODE=1 vllm serve /shared/conversation
        replies from /v1/completions with `return_token_ids`; new weights by /collective_rpc
        {"method": "reload_weights"}, which reads the served folder again, then
        /reset_prefix_cache (vLLM's documentation, "Sleep Mode": weights from disk)
    sglang@http://host:30000@/shared/conversation
        python -m sglang.launch_server --model-path /shared/conversation
        replies from /generate; new weights by /update_weights_from_disk, which clears the cache
        (SGLang's documentation, "SGLang for RL Systems")

The folder lies on a disk that the first worker and the server share, under the same path. The run
overwrites its `model.safetensors` whenever the agent's weights have changed; so it must be a copy,
with its weights in that one file. All workers wait for the reload, and no request is in flight
meanwhile.
"""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch.distributed as dist
from requests import RequestException, post
from torch import nn
from transformers import PreTrainedTokenizerBase

from data.errors import ConfigError, DataError
from ray_jobs.runtime.collectives import from_rank_zero
from ray_jobs.waltzrl.rollout.dialogue import Reply, Request
from ray_jobs.waltzrl.rollout.hf import GathersModel, Sampling, encoded, end_token_ids, reply_of

KINDS = ("vllm", "sglang")
WEIGHTS = "model.safetensors"
API_KEY = "WALTZRL_ROLLOUT_API_KEY"
RELOAD_TIMEOUT_S = 600.0
PARALLEL_CALLS = 64
"""Requests of one worker at a time; the server batches them."""
_NEUTRAL_SAMPLING = {"top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Servers otherwise take the values of the model's generation_config.json."""
_TRANSIENT = (408, 429, 500, 502, 503, 504)


class ModelServer:
    """One server, which others have started, as every worker sees it; `put` is collective."""

    def __init__(
        self,
        kind: str,
        url: str,
        folder: Path,
        timeout_s: float = 600.0,
        tries: int = 3,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.kind, self.url, self.folder = kind, url, folder
        self._timeout_s, self._tries, self._sleep = timeout_s, tries, sleep
        self._holds: tuple[GathersModel, int] | None = None
        self._ends: list[int] = []

    def put(self, agent: GathersModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Load the agent's current weights into the server; the tokens that end its replies.

        Raises:
            DataError: the folder cannot be used, or the server does not load it.
        """
        version = getattr(agent, "updates", 0)  # a reference never changes
        if self._holds is not None and self._holds[0] is agent and self._holds[1] == version:
            return self._ends
        first = not dist.is_initialized() or dist.get_rank() == 0
        with agent.gathered() as model:
            self._ends = end_token_ids(model, tokenizer)
            if first:
                self._write(model)
        if first:
            self._reload()
        from_rank_zero(None)  # nobody asks before the weights are there
        self._holds = (agent, version)
        return self._ends

    def _write(self, model: nn.Module) -> None:
        others = [p.name for p in self.folder.glob("*.safetensors") if p.name != WEIGHTS]
        if others or not (self.folder / "config.json").is_file():
            found = ", ".join(sorted(others)[:2]) or "no config.json"
            raise DataError(
                f"{self.folder}: has {found}; give the {self.kind} server a copy of the model "
                f"with its weights in one {WEIGHTS}, which the run overwrites"
            )
        part = self.folder / f".{WEIGHTS}.part"
        tensors = {n: p.detach().cpu().contiguous() for n, p in model.named_parameters()}
        safetensors.torch.save_file(tensors, part, metadata={"format": "pt"})
        os.replace(part, self.folder / WEIGHTS)

    def _reload(self) -> None:
        if self.kind == "vllm":
            self.ask("/collective_rpc", {"method": "reload_weights", "timeout": RELOAD_TIMEOUT_S})
            self.ask("/reset_prefix_cache", {})
            return
        body = {"model_path": str(self.folder), "flush_cache": True}
        answer = self.ask("/update_weights_from_disk", body)
        if not answer.get("success"):
            raise DataError(f"{self.url}: did not load {self.folder}: {answer.get('message')}")

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """A request's answer; transient failures are retried.

        Raises:
            DataError: it does not answer, or refuses.
        """
        reason = ""
        for attempt in range(self._tries):
            if attempt:
                self._sleep(2.0 ** (attempt - 1))
            try:
                return post_json(self.url + path, body, os.environ.get(API_KEY), self._timeout_s)
            except TransientServerError as error:
                reason = str(error)
            except RefusedRequestError as error:
                raise DataError(
                    f"{self.url}{path}: {error}; is it a {self.kind} server, "
                    f"{'started with VLLM_SERVER_DEV_MODE=1, ' if self.kind == 'vllm' else ''}"
                    f"and {API_KEY} its key?"
                ) from error
        raise DataError(
            f"{self.url}{path}: no answer in {self._tries} tries ({reason}); look at the server, "
            "then rerun to resume from the newest checkpoint"
        )


def open_server(field: str, name: str) -> ModelServer:
    """The server called `name` (KIND@URL@FOLDER), the value of the config's `field`.

    Raises:
        ConfigError: it is not of that form.
    """
    kind, _, rest = name.partition("@")
    url, _, folder = rest.partition("@")
    if kind not in KINDS or not url.startswith(("http://", "https://")) or not folder:
        raise ConfigError(field, f"{name!r} is not KIND@URL@FOLDER with KIND {' or '.join(KINDS)}")
    return ModelServer(kind, url.rstrip("/").removesuffix("/v1"), Path(folder))


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
            **_NEUTRAL_SAMPLING,
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
                **_NEUTRAL_SAMPLING,
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


class TransientServerError(Exception):
    """The server is away, busy or failing, or its answer is no JSON: a retry may succeed."""


class RefusedRequestError(Exception):
    """The server refuses the request: a retry would not help."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


def post_json(url: str, body: dict[str, Any], api_key: str | None, timeout_s: float) -> Any:
    """POST one JSON request to a model server; the decoded answer, None for an empty one.

    Raises:
        TransientServerError, RefusedRequestError.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        response = post(url, json=body, headers=headers, timeout=timeout_s)
    except RequestException as error:
        raise TransientServerError(type(error).__name__) from error
    if response.status_code in _TRANSIENT:
        raise TransientServerError(f"HTTP {response.status_code}")
    if response.status_code != 200:
        raise RefusedRequestError(response.status_code)
    if not response.content:
        return None
    try:
        return response.json()
    except ValueError as error:
        raise TransientServerError("no JSON") from error
