"""A sweep from plan to result, on Ray Tune."""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ray import tune

from ray_jobs.capacity import has_gpus, node_that_fits, room_now
from ray_jobs.errors import ConfigError
from ray_jobs.progress import board_lines
from ray_jobs.run_directory import digest_of
from ray_jobs.runtime import JobOptions
from ray_jobs.storage import Store
from ray_jobs.sweep.cost import NodeMeter, node_share
from ray_jobs.sweep.job import FinishTrial, Plan, RunTrial
from ray_jobs.sweep.ledger import Book, Ledger, TrialRecord, open_ledger
from ray_jobs.sweep.page import render_page
from ray_jobs.sweep.results import PAGE, Folders, leave_best, states, summary
from ray_jobs.sweep.roster import Budget, Pace, Roster
from ray_jobs.sweep.scheduler import make_scheduler
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
    """What decides a trial beside its point."""


def trial_needs(options: JobOptions) -> dict[str, float]:
    """What one trial takes of a node.

    Raises:
        ConfigError: more than one worker a trial.
    """
    if options.worker_range != (1, 1):
        raise ConfigError("num_workers", "a trial of a sweep runs on one worker: leave it at 1")
    use_gpu = has_gpus() if options.use_gpu is None else options.use_gpu
    return {"CPU": float(options.cpus_per_worker or 1), **({"GPU": 1.0} if use_gpu else {})}


def run_sweep(plan: Plan, trials: Trials, options: JobOptions) -> dict[str, Any]:
    """Run what is not done yet; leaves `sweep.json`, `sweep.html` and `best/`. Idempotent.

    Returns:
        The contract's summary: steps_saved_share, worker_seconds_saved_share, best, best_metric.

    Raises:
        ConfigError: a sweep is there that is another one, or is not to be resumed.
        RefusedError: no node, standing or startable, has room for a trial.
        JobError: no trial has a result.
    """
    output = Store.open(options.output_dir)
    ledger = open_ledger(output, plan.identity(trials.about), plan.config.resume)
    if ledger.ended is None or (plan.config.resume and _trials_left(plan, ledger)):
        _run(plan, trials, options, ledger, output)
    else:
        logger.info("sweep  %s has ended (%s): nothing to do", output.uri, ledger.ended)
    best = ledger.best(plan.config.metric, plan.rising)
    assert best is not None
    return summary(plan, ledger, best)


def _run(plan: Plan, trials: Trials, options: JobOptions, ledger: Ledger, output: Store) -> None:
    needs = trial_needs(options)
    share = node_share(needs, node_that_fits(needs))
    concurrent = plan.config.max_concurrent or max(1, room_now(needs))
    if plan.config.search == "random" and not ledger.trials:
        points = sample_points(plan.space, plan.config.trials, plan.config.seed)
        ledger.trials = [TrialRecord(n, point) for n, point in enumerate(points, start=1)]
    ledger.ended = None
    book = Book(ledger, output)
    book.save()
    meter = NodeMeter(options.price_cents_per_hour, ledger.node_seconds)
    folders = Folders(plan, ledger, _trials_store(ledger, options))
    pace = Pace(TABLE_INTERVAL_S)
    price = None if options.price_cents_per_hour is None else share * options.price_cents_per_hour

    def show() -> None:
        for record in ledger.trials:
            book.tick(record)
        ledger.node_seconds = meter.node_seconds
        if pace.due():
            for line in live_table(plan, ledger, price, concurrent).splitlines():
                logger.info("%s", line)

    roster = Roster(
        book, plan.config.checks, plan.job.metrics, lambda _: folders.remove_losers(), show
    )
    budget = Budget(meter, plan.config.max_cost_cents, roster)
    if _trials_left(plan, ledger):
        _fit(plan, trials, options, roster, budget, needs, concurrent, ledger)
    book.release_all()
    ledger.ended = NO_MONEY if _trials_left(plan, ledger) else ALL_ENDED
    folders.remove_losers(again=True)
    best = leave_best(plan, ledger, folders, output, trials.finish, trials.identity)
    page = render_page(plan, ledger, best, price, meter.cost_cents)
    output.write_bytes(PAGE, page.encode())
    book.save()
    counts = ", ".join(f"{count} {state}" for state, count in states(ledger).items())
    logger.info("sweep  %s: %s", ledger.ended, counts)


def _fit(
    plan: Plan,
    trials: Trials,
    options: JobOptions,
    roster: Roster,
    budget: Budget,
    needs: Mapping[str, float],
    concurrent: int,
    ledger: Ledger,
) -> None:
    """Let Ray Tune run the open trials."""
    config = plan.config
    search, space = make_search(config, plan.space, plan.rising, ledger)
    scheduler = make_scheduler(
        config, plan.rising, roster.record_of, [t for t in ledger.trials if t.reports]
    )
    with board_lines() as board, _tune_environment(concurrent) as scratch:
        setup = TrialSetup(
            trials.run,
            _trials_store(ledger, options),
            board,
            config.metric,
            -WORST if plan.rising else WORST,
        )
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(run_trial, setup=setup), dict(needs)),
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
                stop=budget,
                callbacks=[roster],
                failure_config=tune.FailureConfig(max_failures=options.max_failures),
            ),
        )
        tuner.fit()
    if roster.problem is not None:
        raise roster.problem


def _trials_left(plan: Plan, ledger: Ledger) -> int:
    """Trials that have not ended, those included that the search has not made yet."""
    return plan.config.trials - sum(trial.ended for trial in ledger.trials)


def _trials_store(ledger: Ledger, options: JobOptions) -> Store:
    """The sweep's own place for its trials; a storage may be shared by sweeps."""
    return Store.open(options.storage_uri).child("trials", digest_of(ledger.identity))


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
