"""Which sampler a run's config names: hf, cb or http."""

from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from ray_jobs.waltzrl.config import WaltzConfig
from ray_jobs.waltzrl.model_server import ModelServer, open_server
from ray_jobs.waltzrl.rollout.continuous import CBSampler
from ray_jobs.waltzrl.rollout.dialogue import Sampler
from ray_jobs.waltzrl.rollout.hf import GathersModel, HFSampler, Room, Sampling
from ray_jobs.waltzrl.rollout.server import HTTPSampler


def open_sampler(
    config: WaltzConfig,
    agent: GathersModel,
    tokenizer: PreTrainedTokenizerBase,
    sampling: Sampling,
    server_field: str,
    room: Room | None = None,
) -> Sampler:
    """A sampler of the agent; `server_field` is the config's field that names its server. `room`
    is what samplers of this worker know of its memory.

    Raises:
        ConfigError: a server that is not named as it must be.
    """
    if config.rollout == "http":
        server = _server(server_field, getattr(config, server_field) or "")
        return HTTPSampler(agent, tokenizer, sampling, server)
    if config.rollout == "cb":
        return CBSampler(agent, tokenizer, sampling)
    return HFSampler(agent, tokenizer, sampling, room)


@lru_cache(maxsize=8)
def _server(field: str, name: str) -> ModelServer:
    """One object a server and process: it knows which weights the server has."""
    return open_server(field, name)
