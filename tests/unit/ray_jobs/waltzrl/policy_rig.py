"""A very small Llama, batches for it, and a training of a few steps on any number of processes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

from data.storage import Store
from ray_jobs.checkpoint import CheckpointStore
from ray_jobs.checkpoint.saving import load_together
from ray_jobs.runtime.collectives import all_agree
from ray_jobs.waltzrl.algorithm.loss import ActionBatch, action_batch, action_logprobs
from ray_jobs.waltzrl.algorithm.policy import EngineOptions, Policy, start_distributed

VOCABULARY, PAD = 61, 0
LEARNING_RATE = 1e-2


def tiny_llama(seed: int = 0) -> LlamaForCausalLM:
    """Sizes that no number of workers divides, so that ZeRO must pad.

    Weights as large as a trained model's: the gradients of freshly initialised ones are so small
    that Adam would make whole steps of their rounding errors, which differ between processors.
    """
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=2,
        initializer_range=0.1,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)


def sequences(seed: int, number: int) -> list[tuple[list[int], list[int]]]:
    """(prompt, action) pairs of many lengths."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()

    return [(draw(2, 9), draw(1, 7)) for _ in range(number)]


def batch(step: int, rank: int = 0, world: int = 1) -> ActionBatch:
    """This rank's part of the 12 samples of a step."""
    return action_batch(sequences(100 + step, 12)[rank::world], PAD, torch.device("cpu"))


def train(policy: Policy, steps: range, parts: int = 1) -> list[float | None]:
    """Push up the log-probability of every action; gradient norms. `parts`: accumulation."""
    rank, world = dist.get_rank(), dist.get_world_size()
    norms = []
    for step in steps:
        mine = batch(step, rank, world)
        rows = len(mine.ids) // parts
        for part in range(parts):
            rows_of = mine.rows(part * rows, (part + 1) * rows)
            policy.backward(-policy.logprobs(rows_of, 0.7).sum() / 12)
        norms.append(policy.step(LEARNING_RATE))
    return norms


def worker(rank: int, world: int, runs: Mapping[str, EngineOptions], rendezvous: str) -> None:
    """One process, for every folder: 2 steps, saved; then 2 more, directly and from the save."""
    torch.set_num_threads(1)
    store = dist.FileStore(rendezvous, world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    for folder, options in runs.items():
        Path(folder).mkdir(exist_ok=True)
        whole = Policy(tiny_llama(), options)
        train(whole, range(2))
        checkpoint(f"{folder}/saved", whole)
        checkpoint(f"{folder}/whole", whole, train(whole, range(2, 4)))
        resume(Path(folder), options, "resumed")
    dist.destroy_process_group()


def checkpoints(folder: str) -> CheckpointStore:
    """In pieces of 6 kB, of which the embedding fills one."""
    return CheckpointStore(Store.open(folder), piece_bytes=6000)


def checkpoint(folder: str, policy: Policy, norms: Sequence[float | None] = ()) -> None:
    """Every process saves its part; returns when all have."""
    state = policy.state() | {"norms": list(norms)}
    rank, world = dist.get_rank(), dist.get_world_size()
    checkpoints(folder).save(
        policy.updates, state, rank=rank, world_size=world, attempt="a", metadata={}
    )
    all_agree(True)


def loaded(folder: Path) -> dict[str, Any]:
    """The state in a folder of `checkpoint`, as any process reads it."""
    found = checkpoints(str(folder)).load_newest()
    assert found is not None
    return found[1]


def resume(folder: Path, options: EngineOptions, name: str) -> None:
    """Go on from `saved` for two steps on this process group."""
    start_distributed()
    saved = load_together(checkpoints(f"{folder}/saved"), dist.get_rank())
    policy = Policy(tiny_llama(seed=9), options, restored=saved)
    checkpoint(f"{folder}/{name}", policy, train(policy, range(2, 4)))


def plain_training(steps: int) -> dict[str, torch.Tensor]:
    """The same training without DeepSpeed."""
    model = tiny_llama()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0
    )
    for step in range(steps):
        loss = -action_logprobs(model, batch(step), 0.7).sum() / 12
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def close(left: dict[str, Any], right: dict[str, Any], atol: float) -> None:
    assert left.keys() == right.keys() and left
    for name in left:
        torch.testing.assert_close(left[name], right[name], atol=atol, rtol=0, msg=name)


def same_bits(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return all(
        torch.equal(left[part][name], right[part][name])
        for part in ("weights", "exp_avg", "exp_avg_sq")
        for name in left["weights"]
    )


def options(stage: int, **others: Any) -> EngineOptions:
    # Without the threshold nothing of so small a model would be partitioned.
    return EngineOptions(zero_stage=stage, persistence_threshold=0, **others)
