"""Short WaltzRL trainings for tests: in this process, or by `train_waltz` on Ray."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray.train
import torch

from data.storage import Store
from ray_jobs.activations.host_files import locate
from ray_jobs.runtime.fit import WorkerContext
from ray_jobs.runtime.options import JobOptions
from ray_jobs.waltzrl.algorithm.loss import ActionBatch
from ray_jobs.waltzrl.algorithm.policy import Policy
from ray_jobs.waltzrl.config import WaltzConfig
from ray_jobs.waltzrl.datasets.splits import open_prompts
from ray_jobs.waltzrl.job import train_waltz
from ray_jobs.waltzrl.models.base import BaseModel
from ray_jobs.waltzrl.recipes import toy
from ray_jobs.waltzrl.training.loop import Run, WaltzTask, train_loop

SHORT = replace(
    toy(),
    stage1_steps=4,
    max_steps=6,
    batch_size=9,
    checkpoint_every_steps=2,
    eval_every_steps=3,
    validation_prompts=30,
    test_prompts=30,
)
AGENTS = ("conversation", "feedback")


def task_of(config: WaltzConfig, model: BaseModel, folder: Path, code: str) -> WaltzTask:
    """A run with everything in `folder`, of sources with this digest."""
    store = Store.open(str(folder))
    return WaltzTask(
        config=config,
        model=model,
        prompts=open_prompts(config),
        checkpoints=store.child("checkpoints"),
        output=store,
        cache_dir=folder / "cache",
        price_cents_per_hour=None,
        identity={"code_sha256": code},
    )


def run_alone(
    config: WaltzConfig, model: BaseModel, folder: Path, code: str = "a"
) -> list[dict[str, Any]]:
    """The loop without Ray, on one thread as a worker of one CPU; what it reported."""
    torch.set_num_threads(1)
    reported: list[dict[str, Any]] = []
    Run(
        task_of(config, model, folder, code),
        WorkerContext(0, 1, torch.device("cpu"), reported.append),
    ).go()
    return reported


def model_in(folder: Path) -> BaseModel:
    """A model folder as a run names it."""
    return BaseModel(str(folder), locate(str(folder)).identity)


def train(folder: Path | str, base: Path, config: WaltzConfig, **options: Any) -> dict[str, Any]:
    """Train the model in `base` into `folder` on Ray, a CPU a worker."""
    job = JobOptions(output_dir=str(folder), cpus_per_worker=1, **options)
    return train_waltz(replace(config, model=str(base)), job)


def short_of_memory(task: dict[str, Any]) -> None:
    """The training loop where rank 1 has memory for three samples at once."""
    whole = Policy.logprobs

    def logprobs(self: Policy, batch: ActionBatch, temperature: float) -> torch.Tensor:
        if ray.train.get_context().get_world_rank() == 1 and len(batch.ids) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, batch, temperature)

    Policy.logprobs = logprobs
    train_loop(task)


def weights(folder: Path, agent: str) -> dict[str, torch.Tensor]:
    """The tensors of a trained agent."""
    return torch.load(folder / f"waltzrl_{agent}_stage2.pt", weights_only=True)["state_dict"]


def same_agents(left: Path, right: Path) -> bool:
    """Whether both runs left the same agents, bit for bit."""
    pairs = [(weights(left, agent), weights(right, agent)) for agent in AGENTS]
    return all(torch.equal(mine[name], theirs[name]) for mine, theirs in pairs for name in theirs)


def curves(folder: Path, *without: str) -> dict[tuple[str, str], list[float]]:
    """Every stage's curves but wall-clock times and names that start with one of `without`."""
    history = json.loads((folder / "training_history.json").read_text())
    return {
        (stage, name): values
        for stage, each in history.items()
        for name, values in each["curves"].items()
        if not name.endswith("_s") and name != "times" and not name.startswith(without or ("-",))
    }
