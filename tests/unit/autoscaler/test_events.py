import json
import os
import stat
import threading

import pytest

from autoscaler import events
from autoscaler.events import EventLog


@pytest.fixture
def log(tmp_path):
    return EventLog(tmp_path / "home" / "events.jsonl", lambda: 1.5)


def test_an_event_is_one_line_of_json(log):
    log.write("launched", type="gpu_1x_a10", region=None, note="two\nlines")
    text = log.path.read_text()
    assert text.count("\n") == 1
    assert json.loads(text) == {
        "time": 1.5,
        "event": "launched",
        "type": "gpu_1x_a10",
        "note": "two\nlines",
    }
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_what_stays_true_is_said_once(log):
    assert log.write_change("budget", "denied", reason="a")
    assert not log.write_change("budget", "denied", reason="a")
    assert log.write_change("budget", "denied", reason="b")
    assert log.write_change("other", "denied", reason="b")
    assert len(log.tail(10)) == 3


def test_what_recurs_is_written_once_a_minute_with_a_count(tmp_path):
    now_s = [0.0]
    log = EventLog(tmp_path / "events.jsonl", lambda: now_s[0])
    for now_s[0] in range(0, 130, 10):
        log.write_seldom("list", "retried", at=now_s[0])
    log.write_seldom("other", "retried")
    now_s[0] = 5.0  # a clock that was set back does not silence it
    assert log.write_seldom("list", "retried")
    seen = [(e.get("at"), e.get("left_out")) for e in log.tail(10)]
    assert seen == [(0, None), (60, 5), (120, 5), (None, None), (None, None)]


def test_the_tail_passes_over_a_line_cut_short(log):
    for number in range(4):
        log.write("e", number=number)
    with log.path.open("a") as file:
        file.write('{"time": 1, "ev')
    assert [event["number"] for event in log.tail(3)] == [2, 3]
    assert EventLog(log.path.with_name("none")).tail(5) == []


def test_threads_write_whole_lines(log):
    def write() -> None:
        for number in range(20):
            log.write("e", number=number, pad="x" * 500)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(log.tail(1000)) == 80


def test_the_log_is_bounded(log, monkeypatch):
    monkeypatch.setattr(events, "MAX_FILE_BYTES", 1000)
    for number in range(100):
        log.write("e", number=number)
    files = sorted(log.path.parent.iterdir())
    assert [file.name for file in files] == ["events.1.jsonl", "events.jsonl"]
    assert all(file.stat().st_size < 1100 for file in files)


def test_a_disk_that_refuses_does_not_stop_the_caller(tmp_path):
    (tmp_path / "file").write_text("")
    EventLog(tmp_path / "file" / "events.jsonl").write("e")
    assert os.listdir(tmp_path) == ["file"]
