"""The check that the head's autoscaler is at work, on a made-up /proc."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from autoscaler.commands import check_head
from autoscaler.commands.check_head import code_digest, describe, wait_for_monitor
from autoscaler.errors import MonitorError
from autoscaler.events import EventLog

V1 = "/venv/ray/autoscaler/_private/monitor.py"
V2 = "/venv/ray/autoscaler/v2/monitor.py"
BEGAN_S = 1_800_000_000.0


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

    def monitor(self, script: str) -> None:
        folder = self.proc / "77"
        folder.mkdir()
        (folder / "cmdline").write_bytes(b"python\0-u\0" + script.encode() + b"\0--logs-dir=x\0")
        ticks = 100 * os.sysconf("SC_CLK_TCK")
        (folder / "stat").write_text(f"77 (a (b) c) S {' '.join('0' * 18)} {ticks} 0 0\n")
        (self.proc / "stat").write_text(f"cpu 1 2 3\nbtime {int(BEGAN_S) - 100}\n")
        (self.proc / "78").mkdir()  # a process without a command line

    def end_monitor(self) -> None:
        (self.proc / "77" / "cmdline").unlink()

    def event(self, name: str, after_s: float, **fields: str | int) -> None:
        EventLog(self.home / "events.jsonl", lambda: BEGAN_S + after_s).write(name, **fields)

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
def test_at_work_once_it_has_read_a_list(head: Head, script: str, which: str) -> None:
    head.monitor(script)
    head.at(3.0, lambda: head.event("watching", 2.0, pid=77))
    assert head.check() == which
    assert head.now_s >= 3.0


@pytest.mark.parametrize(("after_s", "pid"), [(-500.0, 77), (2.0, 76)])
def test_another_monitors_list_does_not_count(head: Head, after_s: float, pid: int) -> None:
    """One of the head's Ray before this one; some other program's."""
    head.monitor(V2)
    head.event("watching", after_s, pid=pid)
    head.event("list-failed", -500.0, error="long ago")
    with pytest.raises(MonitorError, match="cannot list the nodes: .* says nothing"):
        head.check()


def test_what_its_lists_fail_of_is_told(head: Head) -> None:
    """It runs, writes its state and its log, and sends one request after the other."""
    head.monitor(V2)
    (head.home / "state.db").touch()
    (head.logs / "monitor.log").write_text("resources: 4 CPU\n")
    head.event("list-failed", 2.0, error="GET /instances: refused")
    with pytest.raises(MonitorError, match="cannot list the nodes: GET /instances: refused"):
        head.check()


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
    (head.logs / "monitor.log").write_text("refused: API key\n")
    with pytest.raises(MonitorError, match="cannot list the nodes: refused: API key"):
        head.check()


def test_none_at_all(head: Head) -> None:
    with pytest.raises(MonitorError, match="was not started: .* says nothing"):
        head.check()


def test_the_version_names_the_code_as_it_is() -> None:
    assert f"(code {code_digest()})" in describe()
    assert describe().startswith("raylambda 0.") and ", Ray 2." in describe()


def test_the_version_is_the_whole_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes have the project file beside the package, and no installed package."""
    monkeypatch.setattr(check_head, "version", lambda name: {"ray": "2.60.0"}[name])
    assert check_head.describe().startswith("raylambda 0.1.0 (code ")
    assert (check_head._PACKAGE / "cli.py").is_file()
