"""How large the samples of a run can get: the size at which a stage tries its memory first."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ray_jobs.waltzrl.config import WaltzConfig
from ray_jobs.waltzrl.prompt_sets import Prompt
from ray_jobs.waltzrl.rollout.prompts import PROMPTS, Message

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
