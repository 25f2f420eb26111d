"""Sampler factory: the sampler that a config names (hf, cb or http), for any agent."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from ray_jobs.waltzrl.config import WaltzConfig
from ray_jobs.waltzrl.datasets.prompts import Prompt
from ray_jobs.waltzrl.rollout.continuous import CBSampler
from ray_jobs.waltzrl.rollout.dialogue import TEMPLATES, Message, Sampler
from ray_jobs.waltzrl.rollout.hf import GathersModel, GenerationBatchSize, HFSampler, Sampling
from ray_jobs.waltzrl.rollout.server import HTTPSampler, ModelServer, open_server

SampleSize = tuple[int, int]
"""(prompt tokens, action tokens) of a sample."""


@dataclass(frozen=True)
class SamplerFactory:
    """Makes samplers of any agent; those of one factory share what was learnt of the memory."""

    config: WaltzConfig
    tokenizer: PreTrainedTokenizerBase
    batch_size: GenerationBatchSize = field(default_factory=GenerationBatchSize)

    def answers(self, agent: GathersModel, seed: tuple[int, ...]) -> Sampler:
        """Samples a conversation agent's answers; `seed` must be new for every use.

        Raises:
            ConfigError: a server that is not named as it must be.
        """
        sampling = Sampling(self.config.temperature, self.config.max_answer_tokens, seed)
        return self._sampler(agent, sampling, "conversation_server")

    def feedbacks(self, agent: GathersModel, seed: tuple[int, ...]) -> Sampler:
        """Samples a feedback agent's replies; otherwise as `answers`."""
        sampling = Sampling(self.config.temperature, self.config.max_feedback_tokens, seed)
        return self._sampler(agent, sampling, "feedback_server")

    def _sampler(self, agent: GathersModel, sampling: Sampling, server_field: str) -> Sampler:
        if self.config.rollout == "http":
            server = _server(server_field, getattr(self.config, server_field) or "")
            return HTTPSampler(agent, self.tokenizer, sampling, server)
        if self.config.rollout == "cb":
            return CBSampler(agent, self.tokenizer, sampling)
        return HFSampler(agent, self.tokenizer, sampling, self.batch_size)

    def largest_sample(
        self, prompts: Sequence[Prompt], rounds: int
    ) -> tuple[SampleSize, SampleSize]:
        """Largest samples of the conversation and the feedback agent: from the prompt of most
        characters, with everything that the agents said before as long as it may be."""
        templates = TEMPLATES[self.config.prompts]
        text = max((prompt.text for prompt in prompts), key=len)
        answer, feedback = self.config.max_answer_tokens, self.config.max_feedback_tokens
        talk = self._tokens(templates.conversation_messages(text, [("", "")] * rounds))
        review = self._tokens(templates.feedback_messages(text, ""))
        return (talk + rounds * (answer + feedback), answer), (review + answer, feedback)

    def _tokens(self, messages: Sequence[Message]) -> int:
        text = self.tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=False
        )
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])


@lru_cache(maxsize=8)
def _server(field: str, name: str) -> ModelServer:
    """One object a server and process: it knows which weights the server has."""
    return open_server(field, name)
