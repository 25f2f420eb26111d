import os
import sqlite3
import stat
import threading

import pytest

from autoscaler.domain import Offering
from autoscaler.errors import StateError
from autoscaler.instances.journal import Journal
from autoscaler.money.ledger import Ledger
from autoscaler.state import State, TagStore


@pytest.fixture
def state(tmp_path):
    return State(tmp_path / "home" / "state.db")


def test_file_and_folder_are_the_owners_alone(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir(mode=0o755)
    state = State(folder / "state.db")
    TagStore(state).merge("i1", {"a": "b"})
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    umask = os.umask(0)
    try:
        TagStore(State(tmp_path / "open" / "state.db")).all()
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "open" / "state.db").stat().st_mode) == 0o600


def test_tags_merge_and_survive_a_restart(state):
    TagStore(state).merge("i1", {"ray-node-status": "uninitialized", "x": "1"})
    TagStore(state).merge("i1", {"ray-node-status": "up-to-date"})
    TagStore(state).merge("i2", {"x": "2"})
    again = TagStore(State(state.path))
    assert again.of("i1") == {"ray-node-status": "up-to-date", "x": "1"}
    assert again.all() == {"i1": again.of("i1"), "i2": {"x": "2"}}
    again.forget("i1")
    assert again.of("i1") == {}


def test_a_transaction_is_kept_whole_or_not_at_all(state):
    with pytest.raises(RuntimeError), state.transaction() as connection:
        connection.execute("INSERT INTO tags VALUES ('i', 'k', 'v')")
        raise RuntimeError
    assert TagStore(state).all() == {}


def test_threads_write_at_once(state):
    tags = TagStore(state)

    def write(number: int) -> None:
        for round_ in range(5):
            tags.merge("shared", {f"key-{number}-{round_}": "v"})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tags.of("shared")) == 30


def test_a_forked_child_uses_the_same_file(state):
    tags = TagStore(state)
    tags.merge("i1", {"who": "parent"})
    child = os.fork()
    if child == 0:
        tags.merge("i1", {"child": "yes"})
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert tags.of("i1") == {"who": "parent", "child": "yes"}


def test_a_damaged_file_is_one_clear_line(tmp_path):
    path = tmp_path / "state.db"
    path.write_bytes(b"this is not a database, " * 100)
    with pytest.raises(StateError, match="state.db.*cannot be used") as caught:
        TagStore(State(path)).all()
    assert "\n" not in str(caught.value)


def test_a_newer_file_is_left_alone(state):
    TagStore(state).all()
    with sqlite3.connect(state.path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StateError, match="newer raylambda"):
        TagStore(State(state.path)).all()


FIRST = """
CREATE TABLE intents (
    nonce TEXT PRIMARY KEY, cluster TEXT NOT NULL, instance_type TEXT NOT NULL,
    region TEXT NOT NULL, price_cents_per_hour INTEGER, created_s REAL NOT NULL,
    outcome TEXT NOT NULL, settled_s REAL, instance_id TEXT, detail TEXT NOT NULL DEFAULT ''
);
CREATE TABLE charges (
    instance_id TEXT PRIMARY KEY, cluster TEXT NOT NULL, instance_type TEXT NOT NULL,
    region TEXT NOT NULL, price_cents_per_hour INTEGER, started_s REAL NOT NULL, ended_s REAL,
    closed INTEGER NOT NULL DEFAULT 0
);
INSERT INTO charges VALUES ('i1', 'demo', 'gpu_1x_a10', 'us-west-1', 129, 100.0, NULL, 0);
INSERT INTO intents VALUES
    ('n1', 'demo', 'gpu_1x_a10', 'us-west-1', 129, 100.0, 'open', NULL, NULL, '');
PRAGMA user_version = 1;
"""
"""A file of the first version, as far as it changed."""


def test_a_file_of_the_first_version_keeps_its_records(tmp_path):
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(FIRST)
    connection.close()
    for _ in range(2):
        state = State(path)
        ledger, journal = Ledger(state, "a1"), Journal(state, "a1")
        assert ledger.running_ids("demo") == ["i1"]
        assert [i.nonce for i in journal.unresolved("demo")] == ["n1"]
        assert ledger.foreign("demo") == journal.foreign("demo") == {}
    offering = Offering("gpu_1x_a10", "us-west-1")
    ledger.start("demo", "i2", offering, 129, 200.0)
    assert Ledger(state, "a2").foreign("demo") == {"i2": "a1"}


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be created"):
        TagStore(State(tmp_path / "file" / "state.db")).all()
