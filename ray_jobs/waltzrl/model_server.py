"""A vLLM or SGLang server that holds one agent's current weights; it runs on its own.

    vllm@http://host:8000@/shared/conversation
        VLLM_SERVER_DEV_MODE=1 vllm serve /shared/conversation
        replies from /v1/completions with `return_token_ids`; new weights by /collective_rpc
        {"method": "reload_weights"}, which reads the served folder again, then
        /reset_prefix_cache (vLLM's documentation, "Sleep Mode": weights from disk)
    sglang@http://host:30000@/shared/conversation
        python -m sglang.launch_server --model-path /shared/conversation
        replies from /generate; new weights by /update_weights_from_disk, which clears the cache
        (SGLang's documentation, "SGLang for RL Systems")

The folder lies on a disk that the first worker and the server share, under the same path. The
run overwrites its `model.safetensors` whenever the server is to speak for other weights; so it
must be a copy, with its weights in that one file.

Nothing is sent when the server has the weights already. All workers wait for the reload, and no
request is in flight meanwhile.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch.distributed as dist
from torch import nn
from transformers import PreTrainedTokenizerBase

from data.errors import ConfigError, DataError
from ray_jobs.runtime.collectives import from_rank_zero
from ray_jobs.waltzrl.http_json import PassingError, RefusedRequestError, post_json
from ray_jobs.waltzrl.rollout.hf import GathersModel, end_token_ids

KINDS = ("vllm", "sglang")
WEIGHTS = "model.safetensors"
API_KEY = "WALTZRL_ROLLOUT_API_KEY"
RELOAD_TIMEOUT_S = 600.0


class ModelServer:
    """One server, as every worker sees it; `put` is collective."""

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
        """Make the server speak for the agent as it is now; the tokens that end its replies.

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
        """A request's answer; failures that may pass are tried again.

        Raises:
            DataError: it does not answer, or refuses.
        """
        reason = ""
        for attempt in range(self._tries):
            if attempt:
                self._sleep(2.0 ** (attempt - 1))
            try:
                return post_json(self.url + path, body, os.environ.get(API_KEY), self._timeout_s)
            except PassingError as error:
                reason = str(error)
            except RefusedRequestError as error:
                raise DataError(
                    f"{self.url}{path}: {error}; is it a {self.kind} server, "
                    f"{'started with VLLM_SERVER_DEV_MODE=1, ' if self.kind == 'vllm' else ''}"
                    f"and {API_KEY} its key?"
                ) from error
        raise DataError(
            f"{self.url}{path}: no answer in {self._tries} tries ({reason}); look at the server, "
            "then run again to go on from the newest checkpoint"
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
