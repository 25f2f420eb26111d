"""Places that stop a job before its first step: one line, exit code 2, at every entry point."""

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data.command_line import run_main
from data.storage import FileRecord, Store
from ray_jobs import pipeline
from ray_jobs.sae import sweep as sae_sweep
from ray_jobs.sae import train as sae_train

MAINS = {"pipeline": pipeline, "train": sae_train, "sweep": sae_sweep}


@pytest.fixture(params=MAINS)
def refusal(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., str]:
    """Runs an entry point with flags, without a Ray, and gives the line it ends with."""
    module = MAINS[request.param]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("ray_jobs.runtime.fit.connect", lambda: None)
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0}}])
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(runtime_env={}))

    def run(*flags: str) -> str:
        monkeypatch.setattr(sys, "argv", ["job", *flags])
        with pytest.raises(SystemExit) as ended:
            run_main(module.main)
        assert ended.value.code == 2
        line = capsys.readouterr().err
        assert line.startswith("error: ") and line.count("\n") == 1
        return line

    return run


def test_no_permission(refusal: Callable[..., str]) -> None:
    # Not even root may make a directory there.
    assert "cannot write /proc/run/" in refusal("--output-dir", "/proc/run")


def test_a_full_disk_beside_a_good_one(
    refusal: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream_to = Store._stream_to

    def full(self: Store, path: str, *rest: Any) -> FileRecord:
        if "full" in path:
            raise OSError(errno.ENOSPC, "No space left on device")
        return stream_to(self, path, *rest)

    monkeypatch.setattr(Store, "_stream_to", full)
    line = refusal("--output-dir", str(tmp_path / "full"), "--storage", str(tmp_path / "good"))
    assert f"cannot write {tmp_path}/full/" in line and "the disk is full" in line
    assert list(tmp_path.iterdir()) == []
