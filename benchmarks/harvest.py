"""Tokens per CPU-second of a harvest that stops at its layer, against the whole model.

    python -m benchmarks.harvest [--layer 3] [--rounds 5]

One thread, the variants interleaved, medians of CPU-seconds, so that a shared machine does
not decide the outcome. Three variants over the same texts:

    ours     only the blocks up to the layer, batches sorted by length
    whole    the whole model in the same batches
    plain    the whole model with `output_hidden_states`, batches of 32 in the given order
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from ray_jobs.activations.host_files import MINILM, locate
from ray_jobs.activations.host_model import HostModel

WORDS = (
    "please call the office about invoice number tomorrow because our customer in Lisbon "
    "has moved to another street and asks for a new contract before the end of July"
).split()


def make_texts(n_texts: int, seed: int) -> list[str]:
    """Sentences of 5 to 80 words, most of them short, as mail and chat are."""
    rng = random.Random(seed)
    lengths = [min(80, 5 + int(rng.expovariate(1 / 20))) for _ in range(n_texts)]
    return [" ".join(rng.choices(WORDS, k=length)) for length in lengths]


def make_plain(name: str, layer: int) -> Callable[[list[str]], None]:
    """The obvious way: whole model, all hidden states, padded batches in the given order."""
    folder = locate(name).folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()

    def run(texts: list[str]) -> None:
        for start in range(0, len(texts), 32):
            batch = tokenizer(texts[start : start + 32], return_tensors="pt", padding="longest")
            with torch.inference_mode():
                model(**batch, output_hidden_states=True).hidden_states[layer]

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=MINILM)
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    n_layers = AutoConfig.from_pretrained(locate(options.model).folder).num_hidden_layers
    texts = make_texts(options.texts, seed=0)
    truncated = HostModel(options.model, options.layer)
    whole = HostModel(options.model, n_layers)
    variants: dict[str, Callable[[list[str]], object]] = {
        "ours": truncated.activations,
        "whole": whole.activations,
        "plain": make_plain(options.model, options.layer),
    }
    n_tokens = sum(text.n_rows for text in truncated.tokenize(texts))
    for run in variants.values():
        run(texts[:32])
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(options.rounds):
        for name, run in variants.items():
            begin = time.process_time()
            run(texts)
            seconds[name].append(time.process_time() - begin)
    ours = statistics.median(seconds["ours"])
    print(f"{options.model}, layer {options.layer} of {n_layers}, {n_tokens:,} tokens, float32")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(
            f"  {name:6} {n_tokens / median:8,.0f} tokens/CPU-s  ours is {median / ours:.2f}x "
            f"(min {min(values):.2f} s, max {max(values):.2f} s)"
        )


if __name__ == "__main__":
    main()
