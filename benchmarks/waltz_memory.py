"""How much memory does a WaltzRL step take per worker, and how much does the plan foretell?

Two trained agents and two references of a scaled-down Llama (33 million parameters, grouped-query
attention, DeepSpeed's buckets scaled alike), rollouts and both updates on 1 and 2 workers over
gloo on the CPU, for every ZeRO stage. Measured is the peak of a worker's resident memory (VmHWM,
reset before each phase) over what it held before the models were made.

    python -m benchmarks.waltz_memory [--stages 0,1,2,3] [--workers 1,2] [--dtypes float32]

Prints Markdown rows.
"""

import argparse
import gc
import os
import re
import sys
import tempfile
import warnings
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

# A freed tensor goes back to the system at once, so that resident memory is what is in use.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
if __name__ == "__main__" and not all(os.environ.get(k) == v for k, v in ALLOCATOR.items()):
    os.environ.update(ALLOCATOR, OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu")
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks.waltz_memory", *sys.argv[1:]])
warnings.filterwarnings("ignore")

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from ray_jobs.waltzrl.algorithm.learner import Learner, LossSettings  # noqa: E402
from ray_jobs.waltzrl.algorithm.policy import EngineOptions, Policy, Reference  # noqa: E402
from ray_jobs.waltzrl.algorithm.rewards import Sample  # noqa: E402
from ray_jobs.waltzrl.models.world import build_tokenizer  # noqa: E402
from ray_jobs.waltzrl.planning.memory import (  # noqa: E402
    Buckets,
    MemoryPlan,
    Setting,
    memory_plan,
    shape_of_config,
)
from ray_jobs.waltzrl.rollout.dialogue import Reply, Request  # noqa: E402
from ray_jobs.waltzrl.rollout.hf import HFSampler, Sampling  # noqa: E402

BUCKETS = Buckets(reduce=2_000_000, live=4_000_000, sub_group=4_000_000)
"""DeepSpeed's own for 8 billion parameters, for 33 million."""
PART_ROWS, PARTS = 2, 2


class ScaledOptions(EngineOptions):
    """DeepSpeed's buckets in proportion to the model."""

    def to_config(self, trained: bool) -> dict[str, Any]:
        config = super().to_config(trained)
        config["zero_optimization"] |= {
            "reduce_bucket_size": BUCKETS.reduce,
            "allgather_bucket_size": BUCKETS.reduce,
            "stage3_max_live_parameters": BUCKETS.live,
            "stage3_max_reuse_distance": BUCKETS.live,
            "stage3_prefetch_bucket_size": BUCKETS.live // 20,
            "sub_group_size": BUCKETS.sub_group,
        }
        return config


@dataclass(frozen=True)
class Case:
    stage: int
    workers: int
    dtype: str

    @property
    def half(self) -> bool:
        """In bfloat16; then with checkpointing, as at full size."""
        return self.dtype == "bfloat16"

    @property
    def lengths(self) -> tuple[int, int, int]:
        """(prompt tokens, reply tokens, replies at a time); few where the CPU emulates bfloat16."""
        return (24, 8, 4) if self.half else (96, 32, 8)


def llama() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=8000,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
    )


def plan(case: Case) -> MemoryPlan:
    prompt_tokens, action_tokens, rows = case.lengths
    return memory_plan(
        Setting(
            shape=shape_of_config(llama()),
            workers=case.workers,
            zero_stage=case.stage,
            weight_bytes=2 if case.half else 4,
            offload_optimizer=False,
            checkpointing=case.half,
            trained_agents=2,
            frozen_agents=2,
            part_rows=PART_ROWS,
            parts=PARTS,
            rollout_rows=rows,
            prompt_tokens=prompt_tokens,
            action_tokens=action_tokens,
            buckets=BUCKETS,
        )
    )


class Peak:
    """Peak of resident memory over what was there when this was made, in bytes."""

    def __init__(self) -> None:
        gc.collect()
        self.start = _status("VmRSS")
        self.reset()

    def reset(self) -> None:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")

    def __call__(self) -> int:
        return _status("VmHWM") - self.start

    def now(self) -> int:
        return _status("VmRSS") - self.start


def _status(key: str) -> int:
    with open("/proc/self/status") as file:
        found = re.search(rf"{key}:\s+(\d+) kB", file.read())
    assert found is not None
    return int(found[1]) * 1024


def worker(rank: int, case: Case, folder: str, results: Any) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/rendezvous", case.workers)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=case.workers)
    warm_up(case)
    peak = Peak()
    learners, references = agents(case)
    for learner in learners:  # Adam's moments exist from the first step on
        learner.learn(samples(0, 2, 1), PART_ROWS * PARTS, 1e-5)
    gc.collect()
    found = {"always": peak.now()}
    peak.reset()
    for agent in (learners[0].policy, references[0]):
        roll(agent, case)
    found["rollout"] = peak()
    peak.reset()
    for learner in learners:
        learner.learn(samples(1, *case.lengths[:2]), PART_ROWS * PARTS, 1e-5)
    found["update"] = peak()
    if rank == 0:
        results.put(found)
    dist.barrier()
    os._exit(0)  # what DeepSpeed leaves running is of no interest


def warm_up(case: Case) -> None:
    """Load what the first use loads: kernels, thread pools, code."""
    config = llama().to_dict() | {"hidden_size": 64, "num_hidden_layers": 1, "head_dim": 8}
    small, frozen = (LlamaForCausalLM(LlamaConfig(**config)) for _ in range(2))
    options = ScaledOptions(zero_stage=case.stage, dtype=case.dtype)
    policy = Policy(small, options)
    learner = Learner(policy, Reference(frozen, options, torch.device("cpu")), SETTINGS, 0)
    learner.learn(samples(9, 8, 4), PART_ROWS * PARTS, 1e-5)
    roll(policy, case)
    policy.close()


SETTINGS = LossSettings(
    beta=0.01, epsilon=0.2, importance_cap=2.0, temperature=1.0, updates=1, parts=PARTS
)


def agents(case: Case) -> tuple[list[Learner], list[Reference]]:
    options = ScaledOptions(zero_stage=case.stage, dtype=case.dtype)
    device = torch.device("cpu")
    references = [Reference(model(case), options, device) for _ in range(2)]
    policies = [Policy(model(case), options) for _ in range(2)]
    return [
        Learner(p, r, SETTINGS, 0) for p, r in zip(policies, references, strict=True)
    ], references


def model(case: Case) -> LlamaForCausalLM:
    torch.manual_seed(0)
    made = LlamaForCausalLM(llama())
    made = made.to(torch.bfloat16) if case.half else made
    if case.half:
        made.gradient_checkpointing_enable()
    return made


def samples(seed: int, prompt: int, action: int) -> list[Sample]:
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 8000, (length,), generator=generator).tolist())

    found = []
    for index in range(PART_ROWS * PARTS):
        reply = Reply("", ids(prompt), ids(action), (-9.0,) * action)
        found.append(Sample(reply, float(index % 2)))
    return found


def roll(agent: Any, case: Case) -> None:
    prompt_tokens, action_tokens, rows = case.lengths
    tokenizer = build_tokenizer()
    words = " ".join(["bread"] * (prompt_tokens - 3))
    requests = [Request(({"role": "user", "content": words},), i, 0) for i in range(rows)]
    HFSampler(agent, tokenizer, Sampling(1.0, action_tokens, (0,)))(requests)


def measure(case: Case) -> dict[str, int]:
    context = get_context("fork")  # libraries are loaded once, here
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=worker, args=(rank, case, folder, results))
            for rank in range(case.workers)
        ]
        for process in processes:
            process.start()
        found = results.get(timeout=300)
        for process in processes:
            process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--stages", default="0,1,2,3")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    options = parser.parse_args()
    cases = [
        Case(stage, workers, dtype)
        for dtype in options.dtypes.split(",")
        for stage in map(int, options.stages.split(","))
        for workers in map(int, options.workers.split(","))
        if dtype == "float32" or stage > 0  # masters would not be float32
    ]
    print(f"{shape_of_config(llama()).parameters / 1e6:.1f} million parameters; MB of one worker\n")
    print(
        "| ZeRO | workers | dtype | checkpointing | always, planned | measured | rollout, planned "
        "| measured | update, planned | measured | peak, planned / measured |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for case in cases:
        print(row(case, plan(case), measure(case)), flush=True)


def row(case: Case, planned: MemoryPlan, found: dict[str, int]) -> str:
    rollout, update = planned.always + planned.rollout, planned.always + planned.update
    columns = [
        *(case.stage, case.workers, case.dtype, "yes" if case.half else "no"),
        *(_mb(planned.always), _mb(found["always"])),
        *(_mb(rollout), _mb(found["rollout"]), _mb(update), _mb(found["update"])),
        f"{planned.peak / max(found['rollout'], found['update']):.2f}",
    ]
    return "| " + " | ".join(map(str, columns)) + " |"


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f}"


if __name__ == "__main__":
    main()
