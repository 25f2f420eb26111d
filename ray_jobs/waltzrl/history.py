"""What happened in a stage: curves by step, checks on held-out prompts, and how it ended.

Part of every checkpoint, so that a resumed run has one history without a gap or a repeated
step; `HISTORY` holds one for each stage.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

HISTORY = "training_history.json"
STAGE_1_HISTORY = "stage_1_history.json"
"""Of stage 1 alone: what stage 2 left stays as it is."""


@dataclass
class StageHistory:
    """`curves` are lists of equal length, one entry a step; `steps` counts from 1."""

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
        """Say at which step the stage ended and why."""
        self.stopped = {"step": step, "reason": reason, "planned_steps": self.planned_steps}

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `StageHistory(**d)` brings it back."""
        return asdict(self)


def trained_by(histories: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Digests of all sources that took steps of these stages, in order, each once."""
    return list(dict.fromkeys(code for each in histories.values() for code in each["code_sha256"]))
