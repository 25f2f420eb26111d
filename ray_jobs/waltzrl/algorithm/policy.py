"""Policy: a model that DeepSpeed trains, gathered for the sampler; and its frozen Reference.

The only import of DeepSpeed. On a CPU it runs over gloo without compiling anything.

The state is one full float32 tensor a parameter (master weight and both Adam moments) under the
model's own names, whatever the ZeRO stage and the number of workers: a run resumes with another
number of workers without converting anything. It is restored in two parts: the model is built
with the master weights, so that DeepSpeed partitions (and rounds) them itself, and then masters
and moments are written into the partitions.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read by the import below

import deepspeed
import deepspeed.ops
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_get_local_fp32_param,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)

from ray_jobs.waltzrl.algorithm.loss import ActionBatch, action_logprobs

MOMENTS = ("exp_avg", "exp_avg_sq")
ADAM_BETAS = (0.9, 0.95)

PolicyState = dict[str, Any]
"""{"weights", "exp_avg", "exp_avg_sq": {parameter name: float32 tensor}, "updates": int};
without moments while `updates` is 0."""


def is_finite(state: PolicyState) -> bool:
    """Whether no weight and no moment of an agent is a NaN or an infinity."""
    parts = [state[name] for name in ("weights", *MOMENTS) if name in state]
    return all(bool(tensor.isfinite().all()) for part in parts for tensor in part.values())


@dataclass(frozen=True)
class EngineOptions:
    """How DeepSpeed holds a model. `persistence_threshold`: ZeRO 3 keeps tensors of fewer
    elements whole on every worker; none for DeepSpeed's default."""

    zero_stage: int = 0
    dtype: str = "float32"
    offload_optimizer: bool = False
    clip_norm: float = 1.0
    persistence_threshold: int | None = None

    def to_config(self, trained: bool) -> dict[str, Any]:
        """DeepSpeed's configuration. Accumulation is ours: `step` ends it, whatever the number
        of backward passes before."""
        zero: dict[str, Any] = {"stage": self.zero_stage}
        if self.persistence_threshold is not None:
            zero["stage3_param_persistence_threshold"] = self.persistence_threshold
        config = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "steps_per_print": 1_000_000_000,
            "zero_optimization": zero,
            "bf16": {"enabled": self.dtype == "bfloat16"},
        }
        if trained:
            if self.offload_optimizer:
                zero["offload_optimizer"] = {"device": "cpu"}
            config |= {
                "managed_gradient_accumulation": False,
                "gradient_clipping": self.clip_norm,
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
            }
        return config


def start_distributed() -> None:
    """Let DeepSpeed use this process's group; makes one for a single process without one.

    Idempotent.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else compiled here and now
    os.environ.setdefault("LOCAL_RANK", "0")
    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    deepspeed.init_distributed(
        dist_backend=dist.get_backend(), dist_init_required=False, auto_mpi_discovery=False
    )


class Policy:
    """One trained agent on this worker. Every method is collective.

    `model` has the same weights on every worker; it is changed in place.
    """

    def __init__(
        self, model: nn.Module, options: EngineOptions, restored: PolicyState | None = None
    ) -> None:
        start_distributed()
        self._options = options
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=0.0, betas=ADAM_BETAS, weight_decay=0.0
        )
        self.updates = 0
        if restored is not None:
            model.load_state_dict(restored["weights"], strict=False)
        self._engine, *_ = deepspeed.initialize(
            model=model, optimizer=self._optimizer, config=options.to_config(trained=True)
        )
        self._engine.train()
        if restored is not None:
            self._restore(restored)

    @property
    def device(self) -> torch.device:
        """Where batches must be."""
        return self._engine.device

    def logprobs(self, batch: ActionBatch, temperature: float) -> Tensor:
        """(B, T), with a gradient unless torch.no_grad() is on; see `action_logprobs`."""
        return action_logprobs(self._engine, batch, temperature)

    def backward(self, loss: Tensor) -> None:
        """Add to the gradient; the losses of all calls and workers are summed."""
        self._engine.backward(loss * dist.get_world_size())  # DeepSpeed averages over workers

    def step(self, learning_rate: float) -> float | None:
        """Apply the gradient and clear it; its norm before clipping (ZeRO 0 does not tell)."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        self.updates += 1
        norm = self._engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    @contextmanager
    def gathered(self) -> Iterator[nn.Module]:
        """The whole model on every worker, in evaluation mode, to sample from.

        Workers may use it unequally within the block.
        """
        module = self._engine.module
        module.eval()
        with self._whole(module):
            yield module
        module.train()

    def _whole(self, module: nn.Module) -> Any:
        if self._options.zero_stage < 3:
            return nullcontext()
        return deepspeed.zero.GatheredParameters(list(module.parameters()))

    def weights(self) -> dict[str, Tensor]:
        """Master weights by parameter name, float32 on the CPU; empty but on rank 0."""
        return self._collect(self._full_weight)

    def state(self, copy: bool = True) -> PolicyState:
        """All that the next step depends on; every rank has the tensors of some parameters. Without
        `copy` they may be the live ones: for who copies or writes them before the next step."""
        share = partial(self._collect, copy=copy, shared_out=True)
        state: PolicyState = {"weights": share(self._full_weight), "updates": self.updates}
        if self.updates:
            for moment in MOMENTS:
                state[moment] = share(partial(self._full_moment, key=moment))
        return state

    def close(self) -> None:
        """Free what the engine holds."""
        self._engine.destroy()

    def _collect(self, full: Any, copy: bool = True, shared_out: bool = False) -> dict[str, Tensor]:
        """On rank 0, or every parameter on one of the ranks in turn."""
        rank, keepers = dist.get_rank(), dist.get_world_size() if shared_out else 1
        found = {}
        for index, (name, parameter) in enumerate(self._engine.module.named_parameters()):
            value = full(parameter)
            if index % keepers == rank:
                found[name] = value.detach().to("cpu", torch.float32, copy=copy)
        return found

    def _full_weight(self, parameter: nn.Parameter) -> Tensor:
        return parameter if self._plain else safe_get_full_fp32_param(parameter)

    def _full_moment(self, parameter: nn.Parameter, key: str) -> Tensor:
        if self._plain:
            return self._optimizer.state[parameter][key]
        return safe_get_full_optimizer_state(parameter, key)

    @property
    def _plain(self) -> bool:
        """ZeRO 0 leaves parameters and optimizer to PyTorch."""
        return self._options.zero_stage == 0

    def _restore(self, state: Mapping[str, Any]) -> None:
        moments = MOMENTS if state["updates"] else ()
        if moments:
            self._allocate_moments()
        for name, parameter in self._engine.module.named_parameters():
            self._set(parameter, state["weights"][name], None)
            for key in moments:
                self._set(parameter, state[key][name], key)
        self.updates = state["updates"]
        for entry in self._optimizer.state.values():
            entry["step"].fill_(self.updates)

    def _allocate_moments(self) -> None:
        """A step with a zero gradient at learning rate 0, which changes no weight."""
        ids = torch.zeros(1, 2, dtype=torch.long, device=self.device)
        self.backward(self._engine(input_ids=ids, use_cache=False).logits.sum() * 0)
        self.step(0.0)

    def _set(self, parameter: nn.Parameter, value: Tensor, key: str | None) -> None:
        if self._plain:
            target = parameter.data if key is None else self._optimizer.state[parameter][key]
            target.copy_(value)
        elif self._options.zero_stage < 3:
            value = value.to(self.device)
            if key is None:
                safe_set_full_fp32_param(parameter, value)
            else:
                safe_set_full_optimizer_state(parameter, value, key)
        else:
            shard = _shard(value, safe_get_local_fp32_param(parameter).numel()).to(self.device)
            if key is None:
                safe_set_local_fp32_param(parameter, shard)
            else:
                safe_set_local_optimizer_state(parameter, shard, key)


def _shard(value: Tensor, size: int) -> Tensor:
    """This worker's part of a tensor that ZeRO 3 pads and cuts into equal parts; reads no more."""
    start = size * dist.get_rank()
    part = value.flatten()[start : start + size]
    return torch.cat([part, part.new_zeros(size - part.numel())])


class Reference:
    """A frozen model that only gives log-probabilities; ZeRO 3 partitions it too."""

    def __init__(self, model: nn.Module, options: EngineOptions, device: torch.device) -> None:
        start_distributed()
        model.requires_grad_(False).eval()
        if options.zero_stage == 3:
            config = options.to_config(trained=False)
            self._forward, *_ = deepspeed.initialize(model=model, config=config)
        else:
            dtype = torch.bfloat16 if options.dtype == "bfloat16" else torch.float32
            self._forward = model.to(device, dtype)
        self._options = options

    @torch.no_grad()
    def logprobs(self, batch: ActionBatch, temperature: float) -> Tensor:
        """(B, T); see `action_logprobs`."""
        return action_logprobs(self._forward, batch, temperature)

    @contextmanager
    def gathered(self) -> Iterator[nn.Module]:
        """The whole model on every worker, to sample from."""
        if self._options.zero_stage < 3:
            yield self._forward
            return
        module = self._forward.module
        with deepspeed.zero.GatheredParameters(list(module.parameters())):
            yield module
