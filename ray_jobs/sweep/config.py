"""`SweepConfig`: how many trials a sweep of any job has, chosen how, stopped when, for how much."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from data.errors import ConfigError
from ray_jobs.fields import Count, Natural, check_fields

AtLeast2 = Annotated[int, Field(ge=2)]


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """How many trials, chosen how, stopped when, for how much.

    Raises:
        ConfigError: a value out of its range; it names the field.
    """

    # Search
    trials: Count = 32
    """Configurations to try."""
    space: str = "default"
    """A named search space, or one in words: "k=16,32,64 learning_rate=1e-4:1e-2"."""
    search: Literal["random", "optuna"] = "random"
    """How configurations are chosen: random, or optuna (its TPE learns from earlier trials)."""
    metric: str = "fvu"
    """What makes one trial better than another."""
    seed: Natural = 0
    """Decides the configurations of the search."""

    # Early stopping of trials
    scheduler: Literal["asha", "none"] = "asha"
    """asha stops what is behind at a rung; none runs every trial to its end."""
    checks: Count = 12
    """Measurements in the course of one complete trial; rungs are counted in them."""
    grace_checks: Count = 2
    """The first rung: none is stopped by its rank before so many measurements."""
    rung_spacing: AtLeast2 = 2
    """Each rung is so many times further than the one before."""
    reduction_factor: AtLeast2 = 4
    """One in so many of the trials that have reached a rung continues."""

    # Money, room and resuming
    max_concurrent: Count | None = None
    """Trials at a time, also where nodes come and go; default: what fits on the nodes now."""
    max_cost_cents: Count | None = None
    """The sweep ends with the best so far once its nodes have cost so much; default: no limit."""
    resume: bool = False
    """Resume the sweep that the output directory holds."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.grace_checks > self.checks:
            raise ConfigError(
                "grace_checks", f"{self.grace_checks} is more than checks ({self.checks})"
            )
