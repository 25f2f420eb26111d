"""One trial in a Ray worker: the job's own run, reported to Ray Tune check by check.

The function runs the loop in the process that Ray Tune gives it, which the next trial uses
again. A Ray Train group for each trial would be started and torn down every time.
"""

import logging
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune

from data.errors import JobError, StorageError
from data.storage import Store
from data.storage.probe import Probe
from ray_jobs.checkpoint.saving import RESUMING
from ray_jobs.results.run_directory import digest_of
from ray_jobs.runtime.progress import RelayHandler, log_lines_to
from ray_jobs.sweep.plan import RunTrial
from ray_jobs.sweep.search import POINT
from ray_jobs.sweep.space import Point, shown_point

FAILURE = "failure"
"""In a report: why the trial failed in a way that no retry would fix."""
ELSEWHERE = "elsewhere"
"""In a report: why what a trial leaves on this node would be lost; no trial may run here."""


@dataclass(frozen=True)
class TrialSetup:
    """What every trial of a sweep is given."""

    run: RunTrial
    folders: Store
    probe: Probe
    relay: ray.actor.ActorHandle
    metric: str
    worst: float
    """A value of the metric that no trial has, for the report of a failure."""


def trial_folder(folders: Store, point: Point) -> Store:
    """Where a trial keeps results and checkpoints; found again by its point alone."""
    return folders.child(digest_of(point))


def run_trial(config: dict[str, Any], setup: TrialSetup) -> None:
    """Ray Tune's trainable; `config[POINT]` is the trial's point.

    A JobError (a NaN, a damaged store) ends this trial, not the sweep, unless it is that the
    sweep's places are not here. Anything else is raised, and Ray Tune restarts the trial as
    often as it may.
    """
    point = config[POINT]
    try:
        setup.probe.check(ray.util.get_node_ip_address())
    except StorageError as error:
        tune.report({"check": 0, setup.metric: setup.worst, ELSEWHERE: str(error)})
        return
    handler = RelayHandler(setup.relay)
    handler.setFormatter(logging.Formatter(f"sweep  trial {shown_point(point)}: %(message)s"))
    handler.addFilter(lambda line: line.levelno >= logging.WARNING or line.msg == RESUMING)
    log_lines_to(handler)
    try:
        setup.run(point, trial_folder(setup.folders, point), tune.report)
    except JobError as error:
        tune.report({"check": 0, setup.metric: setup.worst, FAILURE: str(error)})
