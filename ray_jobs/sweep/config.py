"""What a sweep of any job can be told."""

from dataclasses import dataclass

from data.errors import ConfigError

SEARCHES = ("random", "optuna")
SCHEDULERS = ("asha", "none")


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """How many trials, chosen how, stopped when, for how much.

    Raises:
        ConfigError: a value out of its range; it names the field.
    """

    trials: int = 32
    """Configurations to try."""
    space: str = "default"
    """A named search space, or one in words: "k=16,32,64 learning_rate=1e-4:1e-2"."""
    search: str = "random"
    """How configurations are chosen: random, or optuna (its TPE learns from earlier trials)."""
    metric: str = "fvu"
    """What makes one trial better than another."""
    seed: int = 0
    """Decides the configurations of the search."""

    scheduler: str = "asha"
    """asha stops what is behind at a rung; none runs every trial to its end."""
    checks: int = 12
    """Measurements in the course of one whole trial; rungs are counted in them."""
    grace_checks: int = 2
    """The first rung: none is stopped by its rank before so many measurements."""
    rung_spacing: int = 2
    """Each rung is so many times further than the one before."""
    reduction_factor: int = 4
    """One in so many of the trials that have reached a rung goes on."""

    max_concurrent: int | None = None
    """Trials at a time, also where nodes come and go; default: what fits on the nodes now."""
    max_cost_usd: float | None = None
    """The sweep ends with the best so far once its nodes have cost so much."""
    resume: bool = False
    """Go on with the sweep that the output directory holds."""

    def __post_init__(self) -> None:
        for name, smallest in (
            ("trials", 1),
            ("checks", 1),
            ("grace_checks", 1),
            ("rung_spacing", 2),
            ("reduction_factor", 2),
            ("max_concurrent", 1),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise ConfigError(name, f"must be at least {smallest}, not {value}")
        if self.grace_checks > self.checks:
            raise ConfigError(
                "grace_checks", f"{self.grace_checks} is more than checks ({self.checks})"
            )
        for name, known in (("search", SEARCHES), ("scheduler", SCHEDULERS)):
            if getattr(self, name) not in known:
                raise ConfigError(name, f"{getattr(self, name)!r} is not one of {', '.join(known)}")
        if self.max_cost_usd is not None and not self.max_cost_usd > 0:
            raise ConfigError("max_cost_usd", f"must be above 0, not {self.max_cost_usd}")

    @property
    def max_cost_cents(self) -> float | None:
        """`max_cost_usd` in cents."""
        return None if self.max_cost_usd is None else 100 * self.max_cost_usd
