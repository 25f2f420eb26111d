"""The history of a training (`training_history.json`): curves, held-out checks, how it ended.

The curves are lists of equal length, one entry per logged step (`losses`, `learning_rates`,
`times`). A history is part of every checkpoint, so that a resumed run has one history without a
gap or a repeated step. `TrainingHistory` is the SAE's, `StageHistory` that of a stage of WaltzRL.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

HISTORY = "training_history.json"
STAGE_1_HISTORY = "stage_1_history.json"
"""Of a run of stage 1 alone, which leaves the history of stage 2 as it is."""

CURVES = ("steps", "losses", "fvu", "dead_share", "learning_rates", "times")


def goes_on_with(taken_by: list[str], code_sha256: str) -> bool:
    """Append `code_sha256` to the digests of the sources that took the steps so far, unless it is
    the last of them; whether the sources have changed."""
    changes = bool(taken_by) and taken_by[-1] != code_sha256
    if changes or not taken_by:
        taken_by.append(code_sha256)
    return changes


@dataclass
class TrainingHistory:
    """The curves of a run, the checks on held-out data, and how it ended."""

    planned_steps: int
    """Optimizer steps of the whole plan."""

    steps: list[int] = field(default_factory=list)
    """Optimizer steps taken when the entry was written, from 1."""

    losses: list[float] = field(default_factory=list)
    """Training loss of the whole global batch."""

    fvu: list[float] = field(default_factory=list)
    """Fraction of variance unexplained on the global batch."""

    dead_share: list[float] = field(default_factory=list)
    """Share of latents that count as dead."""

    learning_rates: list[float] = field(default_factory=list)

    times: list[float] = field(default_factory=list)
    """Seconds of training so far, over all attempts, without harvest and start-up."""

    checks: list[dict[str, Any]] = field(default_factory=list)
    """Held-out checks: {"step", <metric>: value}."""

    stopped: dict[str, Any] = field(default_factory=dict)
    """See `finish`; empty while the run goes on."""

    code_sha256: list[str] = field(default_factory=list)
    """Digest of the sources that took the steps; several, in order, where they were changed
    between two starts of one training."""

    mixed_precision: bool | None = None
    """What the run found at its first start, so that others of its starts do alike."""

    sinks: dict[str, Any] = field(default_factory=dict)
    """Attention sinks of the training texts, left out: {"tokens", "share", "first", "radius"}."""

    def log(self, **entry: float) -> None:
        """Append one entry to every curve; the names are those of `CURVES`."""
        if set(entry) != set(CURVES):
            raise ValueError(f"an entry has {CURVES}, not {tuple(entry)}")
        for name, value in entry.items():
            getattr(self, name).append(value)

    def finish(self, step: int, reason: str, early: bool) -> None:
        """Record at which step the run ended, why, and what share of the plan was saved."""
        self.stopped = {
            "early": early,
            "reason": reason,
            "step": step,
            "planned_steps": self.planned_steps,
            "steps_saved_share": 1 - step / self.planned_steps,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `TrainingHistory(**d)` brings it back."""
        return asdict(self)


@dataclass
class StageHistory:
    """A stage of WaltzRL: `curves` are lists of equal length, one entry a step; `steps` counts
    from 1."""

    planned_steps: int
    curves: dict[str, list[float | None]] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    stopped: dict[str, Any] = field(default_factory=dict)
    code_sha256: list[str] = field(default_factory=list)
    """Digests of the sources that took the steps, in order; see `ray_jobs.results.history`."""

    def log(self, **entry: float | None) -> None:
        """Append one step to every curve; the first call decides their names."""
        if self.curves and set(entry) != set(self.curves):
            raise ValueError(f"an entry has {sorted(self.curves)}, not {sorted(entry)}")
        for name, value in entry.items():
            self.curves.setdefault(name, []).append(value)

    def finish(self, step: int, reason: str) -> None:
        """Record at which step the stage ended and why."""
        self.stopped = {"step": step, "reason": reason, "planned_steps": self.planned_steps}

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `StageHistory(**d)` brings it back."""
        return asdict(self)


def trained_by(histories: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Digests of all sources that took steps of these stages, in order, each once."""
    return list(dict.fromkeys(code for each in histories.values() for code in each["code_sha256"]))
