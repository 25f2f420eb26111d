"""Ray actors that compute shards: as many as the cluster has room for, replaced when they die."""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import torch
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from data.errors import ConfigError, JobError
from data.storage import Store
from data.storage.probe import Probe
from ray_jobs.activations.harvester import ShardTask, make_shard, sink_rule_of
from ray_jobs.activations.host_model import HostModel
from ray_jobs.activations.manifest import ShardRecord
from ray_jobs.runtime.cluster import has_gpus

logger = logging.getLogger(__name__)

MAX_DEATHS = 3
"""Deaths that one shard, or the start of actors in a row, may cause before the harvest ends."""

REVIEW_INTERVAL_S = 2.0
"""How often the cluster is looked at for nodes that joined."""

NOTHING_TO_CHECK = Probe("", ())

_DIED = (RayActorError, OutOfMemoryError, WorkerCrashedError)
HostArgs = tuple[str, int, str]
"""Name, layer and dtype of a HostModel."""


class Harvester:
    """The actor: one host model, one shard after the other."""

    def load(self, host: HostArgs, device: str, probe: Probe) -> None:
        """Load the model, where `probe` finds the job's places.

        Not in the constructor: only a method's error keeps its type.
        """
        probe.check(ray.util.get_node_ip_address())
        if device == "cpu":
            # An actor holds one CPU; more threads would fight with its neighbours.
            torch.set_num_threads(1)
        name, layer, dtype = host
        self._model = HostModel(name, layer, dtype=dtype, device=device)
        self._sample: tuple[str, ...] | None = None

    def make_shard(self, store: Store, task: ShardTask) -> ShardRecord:
        """Compute and commit one shard (see `harvester.make_shard`)."""
        if task.sample != self._sample:
            self._rule, self._sample = sink_rule_of(self._model, task), task.sample
        return make_shard(self._model, store, task, self._rule)


class HarvestPool:
    """Actors that hold one host model, for one harvest after the other, until it is closed.

        with HarvestPool("meta-llama/Llama-3.1-8B", 12, dtype="bfloat16") as pool:
            train = harvest(..., pool=pool)
            test = harvest(..., pool=pool)

    Actors start with the first shard that has to be computed; then Ray is initialised. There
    are as many as the cluster has CPUs free, or GPUs, looked at again during the work.
    at_least      so many are asked for even where there is no room, all at once, which makes an
                  autoscaler start nodes
    use_gpu       a GPU for each actor, also where nodes with GPUs are still to come; None: where
                  the cluster has or can start any
    probe         checked on every actor's node; without stores it is always content
    watch         called every few seconds of the work; what it raises breaks it off
    started_s     monotonic time at which the first shard of this harvest was handed out
    """

    def __init__(
        self,
        model: str,
        layer: int,
        *,
        dtype: str = "float32",
        at_least: int = 1,
        use_gpu: bool | None = None,
        probe: Probe = NOTHING_TO_CHECK,
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        if at_least < 1:
            raise ConfigError("at_least", f"{at_least} is below 1")
        self.host: HostArgs = (model, layer, dtype)
        self._at_least = at_least
        self._use_gpu = use_gpu
        self._probe = probe
        self._watch = watch
        self._starting: dict[ray.ObjectRef, Any] = {}
        self._working: dict[ray.ObjectRef, tuple[Any, int]] = {}
        self._idle: list[Any] = []
        self._failed_starts = 0
        self.started_s = 0.0

    def __enter__(self) -> "HarvestPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all actors. Idempotent; finished shards stay."""
        working = (actor for actor, _ in self._working.values())
        for actor in [*self._idle, *self._starting.values(), *working]:
            ray.kill(actor)
        self._idle, self._starting, self._working = [], {}, {}

    def run(
        self, store: Store, shards: Sequence[int], task_of: Callable[[int], ShardTask]
    ) -> Iterator[ShardRecord]:
        """Yield the record of each of `shards` when it is committed to `store`, in any order.

        An actor gets a shard only once its model is loaded, so that one that waits for room in
        the cluster keeps no shard from being computed elsewhere.
        Errors: those of `make_shard` as themselves; JobError after MAX_DEATHS.
        """
        self._todo, self._store, self._task_of = deque(shards), store, task_of
        self._deaths: Counter[int] = Counter()
        self.started_s = 0.0
        try:
            while self._todo and self._idle:
                self._give(self._idle.pop())
            while self._todo or self._working:
                self._watch()
                self._grow()
                refs = [*self._starting, *self._working]
                ray.wait(refs, num_returns=1, timeout=REVIEW_INTERVAL_S)
                # All that are done, not any one: quick shards would keep a new actor waiting.
                done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
                for ref in done:
                    yield from self._take(ref)
        finally:
            # Calls of a harvest that was broken off must not answer to the next one.
            if self._working:
                self.close()

    def _grow(self) -> None:
        alive = len(self._starting) + len(self._working)
        wanted = min(self._limit(alive), len(self._todo) + len(self._working))
        on_gpu = self._on_gpu()
        for _ in range(wanted - alive):
            actor = ray.remote(Harvester).options(num_cpus=1, num_gpus=int(on_gpu)).remote()
            ref = actor.load.remote(self.host, "cuda" if on_gpu else "cpu", self._probe)
            self._starting[ref] = actor

    def _limit(self, alive: int) -> int:
        # Starting actors may or may not hold their share already: counting them as if they
        # did not keeps a pool from growing past the cluster, and is put right once they run.
        resource = "GPU" if self._on_gpu() else "CPU"
        free = int(ray.available_resources().get(resource, 0)) - len(self._starting)
        return max(self._at_least, alive + max(0, free))

    def _on_gpu(self) -> bool:
        # Once for the whole set: another kind of processor gives other last bits.
        if self._use_gpu is None:
            self._use_gpu = has_gpus()
        return self._use_gpu

    def _take(self, ref: ray.ObjectRef) -> Iterator[ShardRecord]:
        """Handle a finished call: hand its actor the next shard, or replace a dead one."""
        actor, shard = self._working.pop(ref, (None, None))
        if shard is None:
            actor = self._starting.pop(ref)
        try:
            record = ray.get(ref)
        except RayTaskError as error:
            ray.kill(actor)
            if isinstance(error.cause, JobError):
                raise error.cause from None
            raise
        except _DIED as error:
            ray.kill(actor)
            self._count_death(shard, error)
            return
        if shard is None:
            self._failed_starts = 0
        self._give(actor)
        if shard is not None:
            yield record

    def _give(self, actor: Any) -> None:
        if not self._todo:
            self._idle.append(actor)
            return
        shard = self._todo.popleft()
        self.started_s = self.started_s or time.monotonic()
        ref = actor.make_shard.remote(self._store, self._task_of(shard))
        self._working[ref] = (actor, shard)

    def _count_death(self, shard: int | None, error: Exception) -> None:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        if shard is None:
            self._failed_starts += 1
            deaths, doing = self._failed_starts, "loading the host model"
        else:
            self._todo.appendleft(shard)
            self._deaths[shard] += 1
            deaths, doing = self._deaths[shard], f"computing shard {shard}"
        logger.warning("a harvesting process died while %s: %s", doing, reason)
        if deaths >= MAX_DEATHS:
            raise JobError(
                f"harvest: {deaths} processes died while {doing} (too little memory?); "
                "finished shards are kept, rerun to resume"
            )
