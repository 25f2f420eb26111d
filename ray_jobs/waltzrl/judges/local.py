"""Local judge: WildGuard, Llama Guard, or a model that answers like them, on the worker's device.

Replies are greedy, so a reply that is not of the form would be the same again: that judgement is
None at once, and never a verdict.

The weights are loaded at the first call, once in a process, in bfloat16 on a GPU and float32 on
a CPU. They stay in memory with the agents; `--dry-run` counts them.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from data.errors import ConfigError
from ray_jobs.activations.host_files import locate
from ray_jobs.waltzrl.judges.forms import JudgeForm
from ray_jobs.waltzrl.models.base import load_model, open_tokenizer
from ray_jobs.waltzrl.rollout.dialogue import Labels

logger = logging.getLogger(__name__)

PREFIX = "local:"
BATCH_ROWS = 16
MAX_TOKENS = 64


@dataclass(frozen=True)
class LocalJudge:
    """`model` is a folder or a name of the Hugging Face hub."""

    model: str
    form: JudgeForm

    def __str__(self) -> str:
        return f"judge {self.model}"

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[Labels | None]:
        """Labels in the pairs' order; None where the reply was not of the form.

        Raises:
            DataError: no such model.
        """
        if not pairs:
            return []
        replies = self._replies(pairs)
        found = [self.form.read(reply) for reply in replies]
        failed = sum(labels is None for labels in found)
        if failed:
            odd = replies[found.index(None)][:60]
            logger.warning(
                "judge  %d of %d replies are of another form, one of them %r",
                *(failed, len(found), odd),
            )
        return found

    @torch.no_grad()
    def _replies(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        """Greedy replies, batches of like length at a time."""
        model, tokenizer = _load(self.model)
        prompts = [self._prompt_ids(tokenizer, *pair) for pair in pairs]
        by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        replies = [""] * len(prompts)
        for start in range(0, len(by_length), BATCH_ROWS):
            chosen = by_length[start : start + BATCH_ROWS]
            texts = _generate(model, tokenizer, [prompts[i] for i in chosen])
            for i, text in zip(chosen, texts, strict=True):
                replies[i] = text
        return replies

    def _prompt_ids(
        self, tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str
    ) -> list[int]:
        if tokenizer.chat_template is None:
            return tokenizer(self.form.message(prompt, answer) + "\n")["input_ids"]
        text = tokenizer.apply_chat_template(
            self.form.messages(prompt, answer), add_generation_prompt=True, tokenize=False
        )
        return tokenizer(text, add_special_tokens=False)["input_ids"]


@lru_cache(maxsize=2)
def _load(name: str) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """A judge of the rewards and one of held-out answers may differ; both stay."""
    folder = locate(name).folder
    tokenizer = open_tokenizer(folder)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    on_gpu = torch.cuda.is_available()
    model = load_model(folder, torch.bfloat16 if on_gpu else torch.float32)
    return model.to("cuda" if on_gpu else "cpu").eval(), tokenizer


def _generate(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> list[str]:
    device, width = next(model.parameters()).device, max(map(len, prompts))
    padding = tokenizer.pad_token_id
    ids = torch.tensor([[padding] * (width - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    ends = model.generation_config.eos_token_id
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=GenerationConfig(
            max_new_tokens=MAX_TOKENS,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id if ends is None else ends,
            pad_token_id=padding,
        ),
    )
    return tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)


def local_judge(field: str, name: str, form: JudgeForm) -> LocalJudge:
    """The judge `local:MODEL`, the value of the config's `field`; loads nothing.

    Raises:
        ConfigError: a path where there is no folder, or no name.
    """
    model = name.removeprefix(PREFIX)
    looks_like_path = model.startswith((".", "/", "~")) or model.count("/") != 1
    if looks_like_path and not os.path.isdir(model):
        raise ConfigError(field, f"{model!r} is no model folder here, and no owner/name of the hub")
    return LocalJudge(model, form)
