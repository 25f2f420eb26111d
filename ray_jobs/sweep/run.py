"""`run_sweep`: a sweep from plan to `best/` and `sweep.html`, on Ray Tune."""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from ray import tune

from data.errors import ConfigError
from data.storage import Store
from data.storage.probe import Probe
from ray_jobs.results.run_directory import digest_of
from ray_jobs.runtime.cluster import check_output_locations, has_gpus, node_that_fits, room_now
from ray_jobs.runtime.options import JobOptions
from ray_jobs.runtime.progress import relay_lines
from ray_jobs.sweep.callback import SweepCallback, SweepStopper, Throttle
from ray_jobs.sweep.cost import NodeMeter, Prices, known_prices
from ray_jobs.sweep.ledger import Ledger, LedgerWriter, TrialRecord, open_ledger
from ray_jobs.sweep.plan import FinishTrial, Plan, RunTrial
from ray_jobs.sweep.report import render_sweep
from ray_jobs.sweep.results import PAGE, Folders, leave_best, states, summary
from ray_jobs.sweep.scheduler import RungScheduler, make_scheduler
from ray_jobs.sweep.search import make_search, sample_points
from ray_jobs.sweep.space import Point
from ray_jobs.sweep.table import live_table
from ray_jobs.sweep.trial import TrialSetup, run_trial

logger = logging.getLogger(__name__)

TABLE_INTERVAL_S = 10.0
WORST = 1e9
ALL_ENDED = "all trials have ended"
NO_MONEY = "the money is spent"

TUNE_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the older output is the one that can be silent
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no files of each trial: sweep.json has it all
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the job as it ends any other
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's own state is never read again
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",  # a stopped trial does not compute on for minutes
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@dataclass(frozen=True)
class Trials:
    """How the job runs a trial, and finishes one that was interrupted for good."""

    run: RunTrial
    finish: FinishTrial
    identity: Callable[[Point], Mapping[str, Any]]
    """What the run directory of a trial says that it depends on."""
    about: Mapping[str, Any]
    """What decides a trial besides its point."""


Prepare = Callable[[Callable[[], None]], Trials]
"""Makes ready what trials share. Long work calls what it is given every few seconds, which may
raise to break it off."""


def trial_needs(options: JobOptions) -> dict[str, float]:
    """What one trial takes of a node.

    Raises:
        ConfigError: more than one worker a trial.
    """
    if options.worker_range != (1, 1):
        raise ConfigError("num_workers", "a trial of a sweep runs on one worker: leave it at 1")
    use_gpu = has_gpus() if options.use_gpu is None else options.use_gpu
    return {"CPU": float(options.cpus_per_worker or 1), **({"GPU": 1.0} if use_gpu else {})}


def run_sweep(plan: Plan, prepare: Prepare, options: JobOptions) -> dict[str, Any]:
    """Run what is not done yet; leaves `sweep.json`, `sweep.html` and `best/`. Idempotent.

    `prepare` makes ready what the trials share; its time counts as the sweep's.

    Returns:
        The contract's summary: steps_saved_share, worker_seconds_saved_share, best, best_metric.

    Raises:
        ConfigError: a sweep is there that is another one, or is not to be resumed; a limit of
            money without the price of a node.
        RefusedError: no node, standing or startable, has room for a trial; the money was spent
            before a trial could run.
        StorageError: a place cannot be written, or a trial's node does not share it.
        JobError: no trial has a result.
    """
    needs = trial_needs(options)
    node_that_fits(needs)  # refused before anything is prepared
    output, prices = Store.open(options.output_dir), known_prices(options.price_cents_per_hour)
    limits = {"max_cost_cents": plan.config.max_cost_cents, "by_hand": prices.by_hand}
    with (
        check_output_locations(options.output_dir, options.storage) as probe,
        NodeMeter(output, prices.rate, **limits) as meter,
    ):
        trials = prepare(meter.check)
        ledger = open_ledger(output, plan.identity(trials.about), plan.config.resume)
        if ledger.ended is None or (plan.config.resume and _trials_left(plan, ledger)):
            _Sweep(plan, trials, options, needs, prices, meter, ledger, output, probe).run()
        else:
            logger.info("sweep  %s: already complete (%s)", output.uri, ledger.ended)
    best = ledger.best(plan.config.metric, plan.rising)
    assert best is not None
    return summary(plan, ledger, best)


@dataclass(frozen=True)
class _Sweep:
    """One start of a sweep; `run` is all of it."""

    plan: Plan
    trials: Trials
    options: JobOptions
    needs: Mapping[str, float]
    prices: Prices
    meter: NodeMeter
    ledger: Ledger
    output: Store
    probe: Probe

    def run(self) -> None:
        plan, ledger, meter = self.plan, self.ledger, self.meter
        concurrent = plan.config.max_concurrent or max(1, room_now(self.needs))
        if plan.config.search == "random" and not ledger.trials:
            points = sample_points(plan.space, plan.config.trials, plan.config.seed)
            ledger.trials = [TrialRecord(n, point) for n, point in enumerate(points, start=1)]
        ledger.ended = None
        writer = LedgerWriter(ledger, self.output)
        writer.save()
        folders = Folders(plan, ledger, self._trials_store())
        table = Throttle(TABLE_INTERVAL_S)

        def show() -> None:
            for record in ledger.trials:
                writer.tick(record)
            if table.due():
                for line in live_table(plan, ledger, meter.cost_cents, concurrent).splitlines():
                    logger.info("%s", line)

        while True:
            callback = self._callback(writer, show)
            scheduler = make_scheduler(plan.config, plan.rising, callback.record_of, ledger.trials)
            if scheduler is not None:
                scheduler.call_back(ledger.trials)
            if meter.spent or not _trials_left(plan, ledger):
                break
            may_return = scheduler.may_return if scheduler else lambda _: False
            callback.on_end = partial(folders.remove_losers, may_return)
            self._fit(callback, scheduler, concurrent)
            writer.release_all()
        ledger.ended = NO_MONEY if _trials_left(plan, ledger) else ALL_ENDED
        folders.remove_all_losers()
        trials = self.trials
        best = leave_best(plan, ledger, folders, self.output, trials.finish, trials.identity)
        meter.look()
        page = render_sweep(plan, ledger, best, meter.cost_cents, self.prices.source)
        self.output.write_bytes(PAGE, page.encode())
        writer.save()
        counts = ", ".join(f"{count} {state}" for state, count in states(ledger).items())
        logger.info("sweep  %s: %s", ledger.ended, counts)

    def _callback(self, writer: LedgerWriter, show: Callable[[], None]) -> SweepCallback:
        return SweepCallback(
            writer,
            self.plan.config.checks,
            self.plan.job.metrics,
            price_at=lambda address: self.prices.of_trial(self.needs, address),
            show=show,
        )

    def _fit(
        self, callback: SweepCallback, scheduler: RungScheduler | None, concurrent: int
    ) -> None:
        """Let Ray Tune run the open trials."""
        plan, ledger, config = self.plan, self.ledger, self.plan.config
        search, space = make_search(config, plan.space, plan.rising, ledger)
        with relay_lines() as relay, _tune_environment(concurrent) as scratch:
            worst = -WORST if plan.rising else WORST
            folders = self._trials_store()
            setup = TrialSetup(self.trials.run, folders, self.probe, relay, config.metric, worst)
            trainable = tune.with_parameters(run_trial, setup=setup)
            tuner = tune.Tuner(
                tune.with_resources(trainable, dict(self.needs)),
                param_space=space,
                tune_config=tune.TuneConfig(
                    search_alg=search,
                    scheduler=scheduler,
                    num_samples=1 if search is None else _trials_left(plan, ledger),
                    max_concurrent_trials=concurrent,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name="sweep",
                    storage_path=scratch,
                    verbose=0,
                    stop=SweepStopper(self.meter, callback),
                    callbacks=[callback],
                    failure_config=tune.FailureConfig(max_failures=self.options.max_failures),
                ),
            )
            tuner.fit()
        for problem in (callback.problem, self.meter.problem):
            if problem is not None:
                raise problem

    def _trials_store(self) -> Store:
        """The sweep's own place for its trials; a storage may be shared by sweeps."""
        folders = Store.open(self.options.storage_uri)
        return folders.child("trials", digest_of(self.ledger.identity))


def _trials_left(plan: Plan, ledger: Ledger) -> int:
    """Trials that have not ended, those included that the search has not made yet."""
    return plan.config.trials - sum(trial.ended for trial in ledger.trials)


@contextmanager
def _tune_environment(concurrent: int) -> Iterator[str]:
    """Ray Tune's settings, and a scratch directory for what it writes."""
    chosen = {**TUNE_ENVIRONMENT, "TUNE_MAX_PENDING_TRIALS_PG": str(concurrent)}
    before = {name: os.environ.get(name) for name in chosen}
    os.environ.update(chosen)
    scratch = tempfile.mkdtemp(prefix="raylambda-tune-")
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it misses the files we turned off
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
