"""Memory limits of machines: control groups, version 1 or 2. They need root."""

import time
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_FOLDER = "raylambda-sim"
_EMPTY_TIMEOUT_S = 10.0


class MemoryLimits:
    """The control groups of one supervisor, in a group named after it."""

    def __init__(self, name: str) -> None:
        self._is_v2 = (_ROOT / "cgroup.controllers").exists()
        self._base = (_ROOT if self._is_v2 else _ROOT / "memory") / _FOLDER
        self._own = self._base / name
        self._own.mkdir(parents=True, exist_ok=True)
        if self._is_v2:
            for folder in (_ROOT, self._base, self._own):
                (folder / "cgroup.subtree_control").write_text("+memory")

    def create(self, machine: str, limit_bytes: int) -> Path:
        """Makes a control group for a machine's processes to join, and returns its folder."""
        folder = self._own / machine
        folder.mkdir(exist_ok=True)
        limit = "memory.max" if self._is_v2 else "memory.limit_in_bytes"
        (folder / limit).write_text(str(limit_bytes))
        return folder

    def remove(self, machine: str) -> None:
        """Removes a machine's group; idempotent. Waits up to 10 s for its processes to end."""
        _remove(self._own / machine, _EMPTY_TIMEOUT_S)

    def close(self) -> None:
        """Removes all groups of this supervisor, and the base unless another supervisor uses it."""
        _remove_all(self._own, _EMPTY_TIMEOUT_S)
        _remove(self._base, 0)

    def sweep(self, alive: set[str]) -> None:
        """Removes the groups of supervisors that are not named in `alive`."""
        for folder in _folders(self._base):
            if folder.name not in alive and folder != self._own:
                _remove_all(folder, 0)


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir()]
    except FileNotFoundError:
        return []


def _remove_all(folder: Path, timeout_s: float) -> None:
    for inner in _folders(folder):
        _remove(inner, timeout_s)
    _remove(folder, 0)


def _remove(folder: Path, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() >= deadline_s:
                return
            time.sleep(0.05)
        else:
            return
