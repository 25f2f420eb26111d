"""`Plan`: a sweep's config checked against the job (`JobSpec`) whose configs it tries."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from data.errors import ConfigError
from data.storage import Store
from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.space import Point, Space, check_space, parse_space

Report = Callable[[dict[str, Any]], None]
"""Takes {"check", "step", "planned_steps", <metric>: value} after each of a trial's checks, in
order; `check` counts to `SweepConfig.checks`. It may end the calling thread (SystemExit) when
the trial is to stop."""

RunTrial = Callable[[Point, Store, Report], None]
"""Runs the job at a point, its results and checkpoints in the folder. It resumes from the
newest checkpoint there, and reports again what it reported before it. Pickles without secrets."""

FinishTrial = Callable[[Point, Store], int | None]
"""Leaves, in the folder of a trial that was not run to its end, the results of its newest
checkpoint, and returns the check they stand at; None if it has none. Runs in the driver."""


@dataclass(frozen=True)
class JobSpec:
    """A job that can be swept, before anything has been read or started."""

    name: str
    metrics: Mapping[str, bool]
    """Every metric that its checks report, and whether a larger value is better."""
    spaces: Mapping[str, str]
    """Named search spaces."""
    kinds: Mapping[str, type]
    """Type, int or float, of each field of its config that may vary."""
    build: Callable[[Point], object]
    """The config at a point; ConfigError where it refuses."""
    has_plateau_rule: bool
    """Whether a trial ends by itself once its metric stops improving."""


@dataclass(frozen=True)
class Plan:
    """A sweep that makes sense."""

    job: JobSpec
    config: SweepConfig
    space: Space

    @property
    def rising(self) -> bool:
        """Whether a larger value of the metric is better."""
        return self.job.metrics[self.config.metric]

    def identity(self, about_job: Mapping[str, Any]) -> dict[str, Any]:
        """All that decides the outcome, as plain JSON; `about_job` is what decides a trial's."""
        names = ("trials", "search", "metric", "seed", "scheduler", "checks", "grace_checks")
        names = (*names, "rung_spacing", "reduction_factor")
        chosen = {name: getattr(self.config, name) for name in names}
        identity = {
            "job": self.job.name,
            "space": self.space.text,
            **chosen,
            "base": dict(about_job),
        }
        return json.loads(json.dumps(identity))


def make_plan(job: JobSpec, config: SweepConfig) -> Plan:
    """Check a sweep's config against the job.

    Raises:
        ConfigError: an unknown metric; a space that is empty, contradicts itself, or has fewer
            points than there are to be trials.
    """
    if config.metric not in job.metrics:
        raise ConfigError(
            "metric", f"{config.metric!r} is not reported; there are {', '.join(job.metrics)}"
        )
    if config.space and "=" not in config.space and config.space not in job.spaces:
        raise ConfigError(
            "space",
            f"no space {config.space!r}; there are {', '.join(job.spaces)}, or "
            'write one: "k=16,32,64 learning_rate=1e-4:1e-2"',
        )
    space = parse_space(job.spaces.get(config.space, config.space), job.kinds)
    check_space(space, config.trials, job.build)
    return Plan(job, config, space)
