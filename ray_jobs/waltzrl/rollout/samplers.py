"""Which sampler a run's config names: hf, cb or http."""

from collections.abc import Sequence
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from ray_jobs.waltzrl.config import WaltzConfig
from ray_jobs.waltzrl.datasets.prompts import Prompt
from ray_jobs.waltzrl.rollout.continuous import CBSampler
from ray_jobs.waltzrl.rollout.dialogue import Sampler
from ray_jobs.waltzrl.rollout.hf import GathersModel, HFSampler, Room, Sampling
from ray_jobs.waltzrl.rollout.prompts import PROMPTS, Message
from ray_jobs.waltzrl.rollout.server import HTTPSampler, ModelServer, open_server


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


# How large the samples of a run can get: the size at which a stage tries its memory first.

Size = tuple[int, int]
"""(prompt tokens, action tokens) of a sample."""


def largest_sample(
    config: WaltzConfig,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    rounds: int,
) -> tuple[Size, Size]:
    """Sizes for the conversation and the feedback agent, from the prompt of most characters.

    All that the agents said before is as long as they may be.
    """
    templates = PROMPTS[config.prompts]
    text = max((prompt.text for prompt in prompts), key=len)
    answer, feedback = config.max_answer_tokens, config.max_feedback_tokens
    talk = _tokens(tokenizer, templates.conversation_messages(text, [("", "")] * rounds))
    review = _tokens(tokenizer, templates.feedback_messages(text, ""))
    return (talk + rounds * (answer + feedback), answer), (review + answer, feedback)


def _tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> int:
    text = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])
