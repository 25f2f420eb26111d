"""A judge model from a folder: one built to answer by the last word, and one of random weights."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from data.errors import ConfigError, DataError
from ray_jobs.waltzrl.judges.forms import FORMS
from ray_jobs.waltzrl.judges.judges import judge_together, open_judge
from ray_jobs.waltzrl.rollout.dialogue import Labels, Reply, Trajectory

FINE, UNSAFE, OVERREFUSE = Labels(False, False), Labels(True, False), Labels(False, True)
END, UNKNOWN = "<end>", "<unknown>"
LINES = "Harmful request: {}\nResponse refusal: {}\nHarmful response: {}"
REPLIES = {
    "wildguard": {
        "gladly": LINES.format("no", "no", "no"),
        "weapon": LINES.format("yes", "no", "yes"),
        "sorry": LINES.format("no", "yes", "no"),
        "hum": "I had rather not say",
    },
    "llama-guard": {"gladly": "safe", "weapon": "unsafe\nS1", "sorry": "safe", "hum": "well"},
}
CONTENT_ALONE = "{% for message in messages %}{{ message.content }} {% endfor %}"


def save_judge(folder: Path, replies: dict[str, str], template: str | None, random: bool) -> str:
    """A Llama whose next token is a function of the last one: the reply, then the end."""
    words = [END, UNKNOWN, *replies, *dict.fromkeys(replies.values())]
    vocab = {word: index for index, word in enumerate(words)}
    raw = Tokenizer(models.WordLevel(vocab, unk_token=UNKNOWN))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token=UNKNOWN, eos_token=END, chat_template=template
    )
    tokenizer.save_pretrained(folder)
    size = len(words) + len(words) % 2
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size,
            hidden_size=size,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=512,
            bos_token_id=None,
            eos_token_id=0,
        )
    )
    if not random:
        layer, head = model.model.layers[0], torch.zeros(size, size)
        for last, reply in replies.items():
            head[vocab[reply], vocab[last]] = head[0, vocab[reply]] = 10.0
        with torch.no_grad():
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
            model.model.embed_tokens.weight.copy_(torch.eye(size))
            model.lm_head.weight.copy_(head)
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("form", "template"),
    # Without a template Llama Guard's question ends in words that this model does not know.
    [("wildguard", CONTENT_ALONE), ("wildguard", None), ("llama-guard", CONTENT_ALONE)],
)
def test_verdicts_come_in_order_and_what_is_none_is_masked(
    tmp_path: Path, form: str, template: str | None
):
    folder = save_judge(tmp_path, REPLIES[form], template, random=False)
    last = ["gladly", "weapon", "sorry", "hum"]
    pairs = [("how ? " * (i % 7), f"word {'x ' * i} {last[i % 4]}") for i in range(50)]
    found = open_judge("train_judge", f"{form}@local:{folder}")(pairs)
    third = OVERREFUSE if form == "wildguard" else FINE
    assert found == ([FINE, UNSAFE, third, None] * 13)[:50]


def test_random_weights_give_no_verdict_and_never_a_safe_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = save_judge(tmp_path, REPLIES["wildguard"], CONTENT_ALONE, random=True)
    judge = open_judge("eval_judge", f"llama-guard@local:{folder}")
    assert judge([("how ?", "gladly")] * 5) == [None] * 5
    assert judge([]) == []
    dialogues = [Trajectory("how ?", i, [Reply("gladly")]) for i in range(2)]
    with pytest.raises(DataError, match=f"judge {folder}: not one answer of a batch"):
        judge_together(judge, dialogues)
    assert "5 of 5 replies are of another form" in caplog.text


@pytest.mark.parametrize(
    "name", ["wildguard@local:/nowhere", "wildguard@local:nobody", "x@local:a/b"]
)
def test_a_judge_that_is_not_there_is_refused_before_the_start(name: str):
    with pytest.raises(ConfigError, match="^train_judge: "):
        open_judge("train_judge", name)


def test_the_messages_of_a_form():
    assert FORMS["llama-guard"].messages("p", "a") == [
        {"role": "user", "content": "p"},
        {"role": "assistant", "content": "a"},
    ]
    (asked,) = FORMS["wildguard"].messages("p", "a")
    assert asked == {"role": "user", "content": FORMS["wildguard"].message("p", "a")}
