"""A training loop on Ray Train: how many workers, on which nodes, and restarts when one dies.

Ray Train is given metrics and never a checkpoint. Checkpoints go through
`ray_jobs.checkpoint` alone, because Ray's own path to object storage ends in
`pyarrow.fs.copy_files`, which reports success when an upload failed, and because one failed
write of the controller's snapshot ends a job whatever `max_failures` says. So Ray's own state
lives in a scratch directory of the driver's machine, and an outage of the object storage reaches
only `data.storage`, which retries. A job that is rerun resumes from its newest committed
checkpoint in the storage, not from Ray's state.
"""

import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from data.errors import JobError
from data.storage.probe import Probe
from ray_jobs.runtime.cluster import (
    address_to_join,
    check_output_locations,
    check_room,
    cpus_for_each,
    has_gpus,
    no_ray_at,
    room_now,
    shown,
)
from ray_jobs.runtime.options import JobOptions
from ray_jobs.runtime.progress import log_to_relay

logger = logging.getLogger(__name__)

RESIZE_INTERVAL_S = 60.0
"""How often an elastic training looks for more nodes. Adding a worker costs the steps since the
newest checkpoint and the start of all workers."""


@dataclass(frozen=True)
class WorkerContext:
    """What a training loop knows of the worker that runs it."""

    rank: int
    world_size: int
    device: torch.device
    report: Callable[[dict[str, Any]], None]
    """Takes the metrics of a step; every rank calls it alike."""

    preempted: Callable[[], bool] = lambda: False
    """Whether a machine of the group is about to be taken away; collective."""


def group_context() -> WorkerContext:
    """The context of this Ray Train worker."""
    context = ray.train.get_context()
    return WorkerContext(
        context.get_world_rank(),
        context.get_world_size(),
        ray.train.torch.get_device(),
        ray.train.report,
        lambda: ray.train.get_preemption_info() is not None,
    )


def single_worker_context(report: Callable[[dict[str, Any]], None]) -> WorkerContext:
    """The context of a loop without a group: this process alone, on the GPU that Ray assigned to
    it, if any."""
    use_assigned_cpus()
    device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
    return WorkerContext(0, 1, device, report)


def use_assigned_cpus() -> None:
    """Give PyTorch as many threads as Ray assigned CPUs to this process."""
    resources = ray.get_runtime_context().get_assigned_resources()
    torch.set_num_threads(max(1, int(resources.get("CPU", 1))))


def connect() -> None:
    """Join the cluster of RAY_ADDRESS or the Ray of this machine, or start a local one. Idempotent;
    the workers' own output stays in Ray's logs.

    Raises:
        InputError: no Ray is at RAY_ADDRESS.
    """
    if ray.is_initialized():
        return
    try:
        ray.init(address_to_join(), log_to_driver=False, logging_level=logging.WARNING)
    except ConnectionError as error:
        raise no_ray_at(os.environ.get("RAY_ADDRESS", ""), error) from error


def worker_needs(options: JobOptions) -> dict[str, float]:
    """The resources of each training worker.

    Raises:
        RefusedError: all nodes, even those that could be started, lack room for the fewest workers.
    """
    low, high = options.worker_range
    use_gpu = has_gpus() if options.use_gpu is None else options.use_gpu
    cpus = options.cpus_per_worker or (1 if use_gpu else cpus_for_each(high))
    needs = {"CPU": float(cpus), **({"GPU": 1.0} if use_gpu else {})}
    check_room(needs, low)
    return needs


def scaling(options: JobOptions) -> ScalingConfig:
    """How many workers of what size; elastic if the options name a range. Errors: those of
    `worker_needs`."""
    low, high = options.worker_range
    needs = worker_needs(options)
    if room_now(needs) < low:
        logger.info("train  %d workers of %s each: waiting for nodes", low, shown(needs))
    return ScalingConfig(
        num_workers=low if low == high else (low, high),
        use_gpu="GPU" in needs,
        resources_per_worker=needs,
        elastic_resize_monitor_interval_s=RESIZE_INTERVAL_S,
    )


class _Restarts(UserCallback):
    """Logs in the driver which workers died, why, and how many restarts are left."""

    def __init__(self, relay: ray.actor.ActorHandle, max_failures: int) -> None:
        self._relay = relay
        self._left = max_failures

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for rank, error in worker_exceptions.items():
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            self._relay.post.remote(f"train  worker {rank} ended: {reason}")
        if self._left:
            self._relay.post.remote(
                "train  starting the workers again from the newest checkpoint "
                f"({self._left} tries left)"
            )
        self._left -= 1


class _Trainer(TorchTrainer):
    """Leaves SIGINT to Python, so that Ctrl-C is a KeyboardInterrupt as everywhere in a job.

    Ray's handler would end the process without a message and with exit code 1, and would stay
    installed after the training.
    """

    def _register_sigint_handler(self, controller: Any) -> None:
        """Registers none."""


def fit(
    loop: Callable[[dict[str, Any]], None],
    task: Mapping[str, Any],
    options: JobOptions,
    relay: ray.actor.ActorHandle,
) -> dict[str, Any]:
    """Run `loop(task)` on Ray Train's workers and return the last metrics it reported.

    Raises:
        JobError: the error of `relay.fatal()`, which no restart can fix, or that the
            workers died more than `max_failures` times; errors of `check_output_locations`
            and `worker_needs`.
    """
    scratch = tempfile.mkdtemp(prefix="raylambda-train-")
    try:
        with check_output_locations(options.output_dir, options.storage) as probe:
            result = _Trainer(
                _Guarded(loop, probe),
                train_loop_config={**task, "relay": relay},
                scaling_config=scaling(options),
                run_config=RunConfig(
                    name=f"train-{uuid.uuid4().hex[:8]}",
                    storage_path=scratch,
                    failure_config=FailureConfig(max_failures=options.max_failures),
                    callbacks=[_Restarts(relay, options.max_failures)],
                ),
            ).fit()
    except TrainingFailedError as error:
        _raise_fatal(relay)
        reason = str(error).strip().splitlines()[-1]
        raise JobError(
            f"training ended after {options.max_failures} restarts: {reason}; "
            "rerun the same command to resume from the newest checkpoint"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _raise_fatal(relay)
    return dict(result.metrics or {})


def _raise_fatal(relay: ray.actor.ActorHandle) -> None:
    fatal = ray.get(relay.fatal.remote())
    if fatal is not None:
        raise fatal


class _Guarded:
    """The loop on a worker; keeps Ray Train from restarting after an error that no restart can fix.

    A JobError (a NaN, a missing bucket) is recorded in the relay. A single worker then returns;
    one of several raises, which ends the others' collectives, and the restarted workers find
    the error in the relay and return at once.
    """

    def __init__(self, loop: Callable[[dict[str, Any]], None], probe: Probe) -> None:
        self._loop = loop
        self._probe = probe

    def __call__(self, task: dict[str, Any]) -> None:
        relay = task["relay"]
        log_to_relay(relay)
        if ray.get(relay.fatal.remote()) is not None:
            return
        use_assigned_cpus()
        context = ray.train.get_context()
        logger.info(
            "train  worker %d of %d runs as process %d on %s",
            *(context.get_world_rank(), context.get_world_size(), os.getpid()),
            ray.util.get_node_ip_address(),
        )
        try:
            self._probe.check(ray.util.get_node_ip_address())
            self._loop(task)
        except JobError as error:
            ray.get(relay.fail.remote(error))
            if context.get_world_size() > 1:
                raise
