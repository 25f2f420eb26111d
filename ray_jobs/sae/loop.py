"""The training loop of one SAE worker.

What makes it independent of the number of workers, and of being interrupted:
- global batch `step` is a function of (seed, step) alone; a rank takes its slice of it;
- the loss is a sum over tokens divided by the *global* batch, so uneven slices are right;
- statistics and dead latents are summed over all ranks, once a step, in one collective;
- every decision (stop, NaN) is taken from such sums, so all ranks take it alike;
- model, optimizer, stopping rule and history are one checkpoint, and the cursor is the step.
"""

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from data.errors import NonFiniteError
from data.storage import Store
from ray_jobs.activations.shards import ActivationSet
from ray_jobs.activations.stream import ActivationStream
from ray_jobs.checkpoint import CheckpointStore
from ray_jobs.checkpoint.saving import Saving
from ray_jobs.results.history import TrainingHistory, goes_on_with
from ray_jobs.runtime.collectives import from_rank_zero
from ray_jobs.runtime.fit import WorkerContext, group_context
from ray_jobs.runtime.progress import Progress
from ray_jobs.sae.config import PROBE_METRICS, SAEConfig, learning_rate_at, planned_steps
from ray_jobs.sae.early_stopping import PlateauRule, PlateauState, observe
from ray_jobs.sae.export import save_sae
from ray_jobs.sae.measure import (
    StepStatistics,
    held_out_metrics,
    held_out_share,
    whole_batch,
)
from ray_jobs.sae.model import TopKSAE, build_sae, mixed_precision
from ray_jobs.sae.probe import ProbeData, probe_metrics

logger = logging.getLogger(__name__)

FINAL_MODEL = "sae_final.pt"
HISTORY = "training_history.json"

LOG_EVERY_STEPS = 10
"""Steps between entries of the history."""

PROGRESS_INTERVAL_S = 2.0


@dataclass(frozen=True)
class SAETask:
    """All that a worker is given; plain data and URIs, so that it pickles without a secret."""

    config: SAEConfig
    train: ActivationSet
    held_out: ActivationSet
    checkpoints: Store
    output: Store
    cache_dir: Path | None
    price_cents_per_hour: int | None
    identity: dict[str, Any]
    """What the run depends on: data hashes, host model, code version; in every checkpoint."""
    probe: ProbeData | None = None
    """Labelled tokens to measure `PROBE_METRICS` on at every check; None for none."""


def epoch_model(epoch: int) -> str:
    """File name of the SAE as it was after an epoch, counted from 1."""
    return f"sae_epoch_{epoch}.pt"


def train_loop(task: dict[str, Any]) -> None:
    """Train one SAE on this Ray Train worker; `task["sae"]` is an SAETask.

    Resumes from the newest checkpoint that verifies, if there is one. Ends with the final
    checkpoint committed and `sae_final.pt` and `training_history.json` in the output; a run
    that had ended already only writes those again.

    Raises:
        NonFiniteError: a NaN or infinity, naming the step; nothing of it is saved.
        StorageError: checkpoints cannot be stored.
    """
    train_at(group_context(), task["sae"])


def train_at(place: WorkerContext, task: SAETask) -> None:
    """As `train_loop`, at any place. Reports every check, those before a restart once more."""
    worker = Worker(task, place)
    try:
        worker.restore()
        for check in worker.history.checks:
            place.report(check)
        if not worker.history.stopped:
            worker.train()
        worker.export()
    finally:
        worker.stream.close()


def finish_at(place: WorkerContext, task: SAETask) -> int | None:
    """Leave the results of a training's newest checkpoint; its step, or None if there is none.

    The checkpoint stays as it is, so that the training can still be resumed.
    """
    worker = Worker(task, place)
    try:
        worker.restore()
        if worker.step:
            if not worker.history.stopped:
                worker.history.finish(worker.step, "ended from outside", early=True)
            worker.export()
    finally:
        worker.stream.close()
    return worker.step or None


class Worker:
    """One rank's model, data and position; see the module's first lines."""

    def __init__(self, task: SAETask, place: WorkerContext) -> None:
        config = self.config = task.config
        self.task, self.report, device = task, place.report, place.device
        rank, world_size = self.rank, self.world_size = place.rank, place.world_size
        self.sae = build_sae(config, task.train.d_in, device)
        self.module = self._data_parallel(self.sae)
        self.optimizer = torch.optim.Adam(
            self.sae.parameters(), lr=config.learning_rate, fused=True
        )
        self.stream = ActivationStream(
            task.train,
            batch_size=config.batch_size,
            window_shards=config.window_shards,
            seed=config.seed,
            rank=rank,
            world_size=world_size,
            cache_dir=task.cache_dir,
            device=device,
        )
        self.held_out = held_out_share(task.train, task.held_out, rank, world_size)
        self.rule = PlateauRule(
            config.early_stopping_metric,
            config.early_stopping_patience,
            config.early_stopping_threshold,
            rising=config.early_stopping_metric in PROBE_METRICS,
        )
        self.plateau = PlateauState()
        self.history = TrainingHistory(planned_steps(config, self.stream.steps_per_epoch))
        self.step = 0
        self.first_bad_step = torch.tensor(torch.inf, dtype=torch.float64, device=device)
        self.seconds_before = 0.0
        self.started_s = time.monotonic()
        self.saving = Saving(
            CheckpointStore(task.checkpoints, keep=config.keep_checkpoints),
            rank,
            self.state,
            task.identity,
            config.checkpoint_every_steps,
            config.checkpoint_every_minutes,
        )

    def _data_parallel(self, sae: TopKSAE) -> torch.nn.Module:
        return DistributedDataParallel(sae, broadcast_buffers=False) if self.world_size > 1 else sae

    def state(self) -> dict[str, Any]:
        """Everything the next step depends on; the same on every rank."""
        self.raise_if_bad()
        return {
            "step": self.step,
            "sae": self.sae.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "plateau": self.plateau.to_dict(),
            "history": self.history.to_dict(),
            "seconds": self.seconds,
        }

    def restore(self) -> None:
        """Resume from the newest complete checkpoint; from the start if there is none."""
        state = self.saving.load()
        if state is not None:
            self.step = state["step"]
            self.sae.load_state_dict(state["sae"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.plateau = PlateauState(**state["plateau"])
            self.history = TrainingHistory(**state["history"])
            self.seconds_before = state["seconds"]
        if self.history.mixed_precision is None:
            self.history.mixed_precision = mixed_precision(self.config, self.sae.W_enc.device)
        self.history.sinks = self.task.train.sink_counts
        self.sae.encoder_dtype = torch.bfloat16 if self.history.mixed_precision else None
        self.started_s = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training over all attempts."""
        return self.seconds_before + time.monotonic() - self.started_s

    def train(self) -> None:
        """All steps that are left, until the plan ends or the plateau rule says so."""
        changed = goes_on_with(self.history.code_sha256, self.task.identity["code_sha256"])
        if changed and self.rank == 0:
            logger.warning("sae    resuming with other code than took the steps before")
        total, per_epoch = self.history.planned_steps, self.stream.steps_per_epoch
        progress = Progress(total, "steps", self.task.price_cents_per_hour, done_before=self.step)
        shown_s = -math.inf
        while not self.history.stopped:
            statistics = self.take_step()
            if self.rank == 0 and time.monotonic() - shown_s > PROGRESS_INTERVAL_S:
                shown_s = time.monotonic()
                fvu = statistics.fvu.item()
                logger.info("sae    %s  fvu %.3f", progress.line(self.step), fvu)
            if self.step % self.config.eval_every_steps == 0 or self.step == total:
                self.check()
            if self.step % LOG_EVERY_STEPS == 0 or self.history.stopped:
                self.log(statistics)
            epoch_ends = self.step % per_epoch == 0
            if epoch_ends and self.rank == 0:
                self.save_model(epoch_model(self.step // per_epoch))
            if not self.history.stopped:
                self.saving.save_if_due(self.step, epoch_ends)
        self.raise_if_bad()
        self.saving.finish(self.step)

    def take_step(self) -> StepStatistics:
        """One optimizer step on this rank's share of the global batch."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(config, self.step, self.history.planned_steps)
        out = self.module(self.stream.batch(self.step), global_batch_size=config.batch_size)
        self.optimizer.zero_grad(set_to_none=True)
        # DistributedDataParallel averages over the ranks; the losses are meant to be summed.
        (out.loss * self.world_size).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.sae.parameters(), config.clip_norm)
        self.optimizer.step()
        self.sae.normalise_decoder()
        statistics = whole_batch(out, config.batch_size, config.aux_weight)
        self.sae.dead_latents.update(statistics.fired, config.batch_size)
        self.step += 1
        # Kept on the device: the host asks only now and then, and still learns the first step.
        # A finite loss may have an infinite gradient, and bad weights from this step on.
        bad = torch.where(torch.isfinite(statistics.loss + norm), torch.inf, float(self.step))
        self.first_bad_step = torch.minimum(self.first_bad_step, bad)
        return statistics

    def raise_if_bad(self) -> None:
        """Raises NonFiniteError if any step so far had a NaN or an infinity."""
        step = self.first_bad_step.item()
        if math.isfinite(step):
            raise NonFiniteError(
                f"the loss is not finite at step {int(step)}: the last checkpoint before it "
                "stays; look at the activations, or lower learning_rate"
            )

    def log(self, statistics: StepStatistics) -> None:
        """Add an entry to the history."""
        self.raise_if_bad()
        self.history.log(
            steps=self.step,
            losses=statistics.loss.item(),
            fvu=statistics.fvu.item(),
            dead_share=self.sae.dead_latents.share(),
            learning_rates=self.optimizer.param_groups[0]["lr"],
            times=self.seconds,
        )

    def check(self) -> None:
        """Measure on held-out data, report to Ray, and end the history where a run ends."""
        self.raise_if_bad()
        total = self.history.planned_steps
        metrics = held_out_metrics(self.sae, self.held_out)
        if self.task.probe is not None:
            metrics |= from_rank_zero(probe_metrics(self.sae, self.task.probe))
        self.history.checks.append({"step": self.step, **metrics})
        self.plateau, plateau = observe(self.rule, self.plateau, metrics[self.rule.metric])
        if self.step == total:
            self.history.finish(self.step, f"all {total} planned steps done", early=False)
        elif plateau and self.config.enable_early_stopping:
            reason = (
                f"plateau: {self.rule.metric} did not improve by {self.rule.threshold:.1%} in "
                f"{self.rule.patience} checks (best {self.plateau.best:.4f})"
            )
            self.history.finish(self.step, reason, early=True)
        self.report(self.history.checks[-1])

    def export(self) -> None:
        """Rank 0 writes the final model and the history; idempotent."""
        if self.rank == 0:
            logger.info("sae    %s", self.history.stopped["reason"])
            self.save_model(FINAL_MODEL)
            self.task.output.write_json(HISTORY, self.history.to_dict())

    def save_model(self, name: str) -> None:
        """Write the SAE for raw activations, centring and scaling folded in."""
        self.raise_if_bad()
        train = self.task.train
        save_sae(self.task.output, name, self.sae, train.mean, train.scale, train.sink_rule)
