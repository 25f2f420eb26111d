"""What happened in a stage: curves by step, checks on held-out prompts, and how it ended.

Part of every checkpoint, so that a resumed run has one history without a gap or a repeated
step; `training_history.json` holds one for each stage.
"""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class StageHistory:
    """`curves` are lists of equal length, one entry a step; `steps` counts from 1."""

    planned_steps: int
    curves: dict[str, list[float | None]] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    stopped: dict[str, Any] = field(default_factory=dict)

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
