"""World model: the embedded text world's language model, a small Llama with a word tokenizer.

`build_world_model` makes a Hugging Face folder that `from_pretrained` opens, deterministic for
its seed on one kind of processor. The model speaks like an instruct model of the world and has
the habits of `data.builders.waltz_demonstrations.Habits`, so that WaltzRL has something to correct.
"""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from data.builders import waltz_words as words
from data.builders.waltz_demonstrations import Demonstration, Habits, demonstrations
from ray_jobs.waltzrl.rollout.dialogue import WORLD_TEMPLATES, Message

logger = logging.getLogger(__name__)

SPECIAL = ("<|pad|>", "<|unknown|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
JSON_PIECES = ('{"reasoning": "', '", "unsafe": ', ', "overrefuse": ', ', "feedback": "', '"}')
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
IGNORED = -100


@dataclass(frozen=True)
class WorldModelSize:
    """Shape and training of the base model."""

    hidden: int = 64
    layers: int = 2
    heads: int = 4
    steps: int = 800
    batch_size: int = 32
    learning_rate: float = 8e-3


def vocabulary() -> list[str]:
    """Special tokens, pieces of the feedback's JSON, and every word with and without a space."""
    texts = [
        *words.SHARP_ACTS,
        *words.MILD_ACTS,
        *words.WARDED_THINGS,
        *words.ORDINARY_THINGS,
        *(t for group in words.PLAIN_WORDINGS.values() for t in group),
        *(t for group in words.COVERED_WORDINGS.values() for t in group),
        *words.REFUSALS,
        *words.HELP_OPENINGS,
        *words.MANNERS,
        *words.FEEDBACK_REFUSE,
        *words.FEEDBACK_HELP,
        *words.FEEDBACK_FINE,
        words.REASONING,
        words.HELP,
        WORLD_TEMPLATES.conversation_system,
        WORLD_TEMPLATES.feedback_system,
        WORLD_TEMPLATES.feedback_request,
        "sharp mild warded ordinary helped refused",
    ]
    found = sorted({word for text in texts for word in text.split() if "{" not in word})
    pieces = [*SPECIAL, *JSON_PIECES, "true", "false"]
    return pieces + [form for word in found for form in (word, " " + word)]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose decoding gives the text back, spaces and JSON included."""
    vocab = {piece: index for index, piece in enumerate(vocabulary())}
    raw = Tokenizer(models.WordLevel(vocab, unk_token=SPECIAL[1]))
    json_pieces = "|".join(_escaped(piece) for piece in JSON_PIECES)
    raw.pre_tokenizer = pre_tokenizers.Split(
        Regex(rf"{json_pieces}| ?[a-z]+| ?[^a-z\s]"), behavior="isolated"
    )
    raw.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=SPECIAL[0],
        unk_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        additional_special_tokens=list(SPECIAL[3:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _escaped(piece: str) -> str:
    return "".join("\\" + character if character in '{}"' else character for character in piece)


def build_world_model(
    folder: Path, seed: int, size: WorldModelSize | None = None, habits: Habits | None = None
) -> None:
    """Train the base model and save it with its tokenizer as a Hugging Face folder."""
    size = size or WorldModelSize()
    tokenizer = build_tokenizer()
    model = _fresh_model(size, tokenizer, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=size.learning_rate, weight_decay=0.01)
    stream = demonstrations(seed, habits or Habits())
    for step in range(size.steps):
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(size, step)
        ids, labels, mask = collate(tokenizer, islice(stream, size.batch_size))
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            logger.info("waltz  base model: %d/%d steps", step + 1, size.steps)
    model.eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _learning_rate(size: WorldModelSize, step: int) -> float:
    """Linear warm-up over the first twentieth, then a cosine to zero."""
    warmup = max(1, size.steps // 20)
    if step < warmup:
        return size.learning_rate * (step + 1) / warmup
    through = (step - warmup) / max(1, size.steps - warmup)
    return size.learning_rate * 0.5 * (1 + math.cos(math.pi * through))


def world_config(size: WorldModelSize, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """The base model's architecture."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=2 * size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )


def _fresh_model(
    size: WorldModelSize, tokenizer: PreTrainedTokenizerFast, seed: int
) -> LlamaForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(world_config(size, tokenizer))


def messages_of(demonstration: Demonstration) -> tuple[Message, ...]:
    """What the demonstrating agent saw."""
    if demonstration.role == "feedback":
        return WORLD_TEMPLATES.feedback_messages(demonstration.request, demonstration.answer)
    rounds = [(demonstration.answer, demonstration.feedback)]
    return WORLD_TEMPLATES.conversation_messages(
        demonstration.request, rounds if demonstration.role == "revision" else ()
    )


def collate(
    tokenizer: PreTrainedTokenizerFast, batch: Iterable[Demonstration]
) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, labels, attention mask), each (B, T): labels on the replies and their end only."""
    batch = list(batch)
    prompts = tokenizer.apply_chat_template(
        [list(messages_of(each)) for each in batch], add_generation_prompt=True, tokenize=False
    )
    seen = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    replies = tokenizer([each.reply for each in batch], add_special_tokens=False)["input_ids"]
    end_id = tokenizer.eos_token_id
    rows = [(prompt, [*reply, end_id]) for prompt, reply in zip(seen, replies, strict=True)]
    width = max(len(prompt) + len(reply) for prompt, reply in rows)
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    labels = torch.full((len(rows), width), IGNORED)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for row, (prompt, reply) in enumerate(rows):
        end = len(prompt) + len(reply)
        ids[row, :end] = torch.tensor(prompt + reply)
        labels[row, len(prompt) : end] = torch.tensor(reply)
        mask[row, :end] = 1
    return ids, labels, mask
