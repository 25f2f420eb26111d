"""The check that the head's autoscaler is at work, on a made-up /proc."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from autoscaler.errors import MonitorError
from autoscaler.monitor_check import wait_for_monitor
from autoscaler.version import code_digest, describe

V1 = "/venv/ray/autoscaler/_private/monitor.py"
V2 = "/venv/ray/autoscaler/v2/monitor.py"
BEGAN_S = 1_000.0


class Head:
    """`at(t, act)` makes something happen when the check has waited for so long."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.logs, self.home = (folder / name for name in ("proc", "logs", "home"))
        for path in (self.proc, self.logs, self.home):
            path.mkdir()
        self.now_s = 0.0
        self._plan: list[tuple[float, Callable[[], object]]] = []

    def at(self, at_s: float, act: Callable[[], object]) -> None:
        self._plan.append((at_s, act))

    def monitor(self, script: str) -> Path:
        folder = self.proc / "77"
        folder.mkdir()
        (folder / "cmdline").write_bytes(b"python\0-u\0" + script.encode() + b"\0--logs-dir=x\0")
        (self.proc / "78").mkdir()  # a process without a command line
        return folder

    def end_monitor(self) -> None:
        (self.proc / "77" / "cmdline").unlink()

    def state(self, name: str, after_s: float) -> None:
        path = self.home / name
        path.touch()
        began_s = (self.proc / "77").stat().st_ctime if (self.proc / "77").exists() else BEGAN_S
        os.utime(path, (began_s + after_s,) * 2)

    def check(self) -> str:
        def sleep(seconds: float) -> None:
            self.now_s += seconds
            for at_s, act in [p for p in self._plan if p[0] <= self.now_s]:
                self._plan.remove((at_s, act))
                act()

        return wait_for_monitor(
            proc=self.proc,
            logs=self.logs,
            home=self.home,
            clock=lambda: self.now_s,
            sleep=sleep,
        )


@pytest.fixture
def head(tmp_path: Path) -> Head:
    return Head(tmp_path)


@pytest.mark.parametrize(("script", "which"), [(V1, "v1"), (V2, "v2")])
def test_at_work_once_it_has_asked_lambda(head: Head, script: str, which: str) -> None:
    head.monitor(script)
    head.at(3.0, lambda: head.state("state.db", 2.0))
    assert head.check() == which
    assert head.now_s >= 3.0


def test_the_write_ahead_log_counts_as_the_state(head: Head) -> None:
    head.monitor(V2)
    head.state("state.db", -500.0)  # of the head's Ray before this one
    head.at(1.0, lambda: head.state("state.db-wal", 1.0))
    assert head.check() == "v2"


def test_one_that_ends_is_told_with_its_last_words(head: Head) -> None:
    head.monitor(V2)
    (head.logs / "monitor.err").write_text("Traceback ...\nModuleNotFoundError: no provider\n")
    head.at(2.0, head.end_monitor)
    with pytest.raises(MonitorError, match="has ended: ModuleNotFoundError: no provider"):
        head.check()
    assert head.now_s < 5.0


def test_one_that_ended_before_the_check_is_told_at_once(head: Head) -> None:
    (head.logs / "monitor.err").write_text("ModuleNotFoundError: no provider\n")
    with pytest.raises(MonitorError, match="has ended: ModuleNotFoundError"):
        head.check()
    assert head.now_s == 0.0


def test_one_that_does_nothing_is_told_after_a_while(head: Head) -> None:
    head.monitor(V2)
    head.state("state.db", -500.0)
    (head.logs / "monitor.log").write_text("refused: API key\n")
    with pytest.raises(MonitorError, match="does nothing: refused: API key"):
        head.check()


def test_none_at_all(head: Head) -> None:
    with pytest.raises(MonitorError, match="was not started: .* says nothing"):
        head.check()


def test_the_version_names_the_code_as_it_is() -> None:
    assert f"(code {code_digest()})" in describe()
    assert describe().startswith("raylambda 0.") and ", Ray 2." in describe()
