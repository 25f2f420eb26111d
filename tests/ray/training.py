"""A small SAE training for tests: planted sparse activations and the real `train_sae`."""

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from data.storage import Store
from ray_jobs.activations.dataset import Dataset
from ray_jobs.activations.prepare import Prepared
from ray_jobs.activations.shards import Rows
from ray_jobs.runtime.options import JobOptions
from ray_jobs.runtime.progress import log_lines_to
from ray_jobs.sae.config import SAEConfig
from ray_jobs.sae.job import train_sae
from tests.activation_sets import save_set

D_IN, N_ROWS = 32, 6400

CONFIG = SAEConfig(
    n_latents=128,
    k=4,
    aux_k=8,
    dead_after_tokens=2000,
    epochs=3,
    batch_size=64,
    warmup_steps=5,
    eval_every_steps=25,
    checkpoint_every_steps=20,
    keep_checkpoints=3,
    window_shards=2,
    shard_rows=1024,
    enable_mixed_precision=False,
)
"""300 steps."""


def planted_rows(n_rows: int, seed: int) -> Rows:
    """Sparse sums of 64 directions that are the same for every seed."""
    directions = torch.randn(64, D_IN, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(n_rows, 64, generator=generator) < 3 / 64
    strength = 1 + torch.rand(n_rows, 64, generator=generator)
    activations = (chosen * strength) @ directions
    position = torch.arange(n_rows, dtype=torch.int32)
    sink = torch.zeros(n_rows, dtype=torch.bool)
    return Rows(activations.bfloat16(), position, position.clone(), position + 1, sink)


def prepared(folder: Path) -> Prepared:
    """Activation sets of three splits, without a host model."""
    sets = {}
    for seed, (split, n_rows) in enumerate(
        {"train": N_ROWS, "validation": 1000, "test": 1000}.items()
    ):
        rows = planted_rows(n_rows, seed)
        sets[split] = save_set(Store.open(str(folder / split)), rows, CONFIG.shard_rows, n_rows)
    return Prepared(Dataset({}, {}, "0" * 64, "planted directions"), sets)


class Lines(logging.Handler):
    """Keeps what a person would see; `on_line` may act on it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.on_line = lambda line: None
        log_lines_to(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.on_line(self.lines[-1])

    def workers(self) -> dict[int, int]:
        """Process id by rank, of the workers that started last."""
        found = [re.search(r"worker (\d+) of \d+ runs as process (\d+)", x) for x in self.lines]
        return {int(m[1]): int(m[2]) for m in found if m}


def train(
    folder: Path, data: Prepared, config: SAEConfig = CONFIG, **options: Any
) -> dict[str, Any]:
    """Train into `folder`; the history with `summary` beside it."""
    chosen = replace(JobOptions(output_dir=str(folder)), **options)
    result = train_sae(config, data, chosen)
    history = Store.open(chosen.output_dir).read_json("training_history.json")
    return {**history, "summary": result}


def final_state(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of `sae_final.pt`."""
    return torch.load(folder / "sae_final.pt", weights_only=True)["state_dict"]


def same_bits(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Whether both hold the same tensors, bit for bit."""
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def without_times(history: dict[str, Any]) -> dict[str, Any]:
    """A history without its wall-clock curve."""
    return {name: value for name, value in history.items() if name != "times"}
