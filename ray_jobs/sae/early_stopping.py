"""The plateau rule of early stopping: a metric has not improved by a share in some checks.

    stop  <=>  `patience` checks in a row without  value <= best * (1 - threshold)

for a metric that falls (FVU, loss), and `value >= best * (1 + threshold)` for one that rises
(F1). Pure: the state goes in and comes out, so that a resumed run stops where the undisturbed
one does.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from data.errors import ConfigError


@dataclass(frozen=True)
class PlateauRule:
    """What counts as a plateau."""

    metric: str = "fvu"
    """Name of the watched metric, for the record."""

    patience: int = 2
    """Checks without improvement before the rule stops the run."""

    threshold: float = 0.01
    """The share of the best value by which a check must be better to count as improvement."""

    rising: bool = False
    """True for a metric whose larger values are better."""

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ConfigError("patience", f"must be at least 1, not {self.patience}")
        if not 0 <= self.threshold < 1:
            raise ConfigError("threshold", f"must be in [0, 1), not {self.threshold}")

    def improves(self, value: float, best: float) -> bool:
        """Whether `value` beats `best` by at least the threshold."""
        margin = abs(best) * self.threshold
        return (
            value >= best + margin and value > best
            if self.rising
            else (value <= best - margin and value < best)
        )


@dataclass(frozen=True)
class PlateauState:
    """What the rule has seen."""

    best: float | None = None
    checks: int = 0
    checks_without_improvement: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint; `PlateauState(**d)` brings it back."""
        return asdict(self)


def observe(rule: PlateauRule, state: PlateauState, value: float) -> tuple[PlateauState, bool]:
    """Take one check of the metric; return the new state and whether to stop now.

    The first check sets the mark. A slow creep counts only once it adds up to the threshold
    against the last mark, so that ten steps of 0.5 % are not ten plateaus.
    """
    if not math.isfinite(value):
        raise ValueError(f"{rule.metric} is {value}: a plateau of it has no meaning")
    checks = state.checks + 1
    if state.best is None or rule.improves(value, state.best):
        return PlateauState(value, checks, 0), False
    waited = state.checks_without_improvement + 1
    return PlateauState(state.best, checks, waited), waited >= rule.patience
