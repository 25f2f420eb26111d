"""The local state file, and the tags that Lambda cannot change after a launch.

One SQLite file, `~/.raylambda/state.db` (0600, folder 0700), shared by all threads and
processes of this machine. A connection lives for one transaction only, so nothing is held
across threads or forks, and a process that dies leaves no lock behind.
"""

import os
import sqlite3
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from autoscaler.errors import StateError

BUSY_TIMEOUT_S = 30.0
"""How long a transaction waits for another's; ours last milliseconds."""

_FIRST = """
CREATE TABLE tags (
    instance_id TEXT, key TEXT, value TEXT NOT NULL, PRIMARY KEY (instance_id, key)
) WITHOUT ROWID;
CREATE TABLE pace (account TEXT PRIMARY KEY, general_s REAL, launch_s REAL, urgent_until_s REAL);
CREATE TABLE intents (
    nonce TEXT PRIMARY KEY, cluster TEXT NOT NULL, instance_type TEXT NOT NULL,
    region TEXT NOT NULL, price_cents_per_hour INTEGER, created_s REAL NOT NULL,
    outcome TEXT NOT NULL, settled_s REAL, instance_id TEXT, detail TEXT NOT NULL DEFAULT ''
);
CREATE INDEX intents_by_cluster ON intents (cluster, outcome);
CREATE TABLE closures (
    account TEXT, instance_type TEXT, region TEXT, reason TEXT, strikes INTEGER NOT NULL,
    closed_s REAL NOT NULL, next_try_s REAL NOT NULL, advertised INTEGER NOT NULL,
    probe_until_s REAL, PRIMARY KEY (account, instance_type, region, reason)
);
CREATE TABLE charges (
    instance_id TEXT PRIMARY KEY, cluster TEXT NOT NULL, instance_type TEXT NOT NULL,
    region TEXT NOT NULL, price_cents_per_hour INTEGER, started_s REAL NOT NULL, ended_s REAL,
    closed INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX charges_by_cluster ON charges (cluster, closed);
"""
_ACCOUNTS_AND_HEAD_REPORTS = """
ALTER TABLE intents ADD COLUMN account TEXT;
ALTER TABLE charges ADD COLUMN account TEXT;
ALTER TABLE charges ADD COLUMN reported_s REAL;
ALTER TABLE charges ADD COLUMN max_cents_per_hour INTEGER;
ALTER TABLE charges ADD COLUMN max_cents INTEGER
"""
"""`account` is None where an older version wrote the row. The others are a head's: until when
its machines are known here, and the caps that they keep (None is none)."""
_MIGRATIONS = (_FIRST, _ACCOUNTS_AND_HEAD_REPORTS)
"""A file's `user_version` is how many of them it has."""


class State:
    """Creates the file at the first use. Where it cannot be used, every use raises StateError and
    the constructor does not: terminating machines must work without it."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        """`durable=False` skips the flush to disk: for tests that simulate whole days."""
        self.path = path
        self._durable = durable
        self._is_prepared = False

    @contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """A write transaction: all of it is kept, on disk, or (when the block raises) nothing."""
        self._prepare()
        with self._writing() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Generator[sqlite3.Connection]:
        self._prepare()
        with self._connected() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        with self._connected() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextmanager
    def _connected(self) -> Generator[sqlite3.Connection]:
        try:
            connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            with closing(connection):
                connection.row_factory = sqlite3.Row
                if not self._durable:
                    connection.execute("PRAGMA synchronous = OFF")
                yield connection
        except sqlite3.DatabaseError as error:
            raise StateError(
                f"{self.path}: the state file cannot be used ({error}): nothing is launched; "
                "`raylambda status` shows what bills, `ray down` ends it; if the file is damaged, "
                "move it away then"
            ) from error

    def _prepare(self) -> None:
        if self._is_prepared:
            return
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.parent.chmod(0o700)
            # Made here and not by SQLite: it must never exist with another mode.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            self.path.chmod(0o600)
        except OSError as error:
            raise StateError(f"{self.path}: the state file cannot be created: {error}") from None
        with self._writing() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > len(_MIGRATIONS):
                raise StateError(f"{self.path}: written by a newer raylambda: install that version")
            for migration in _MIGRATIONS[version:]:
                for statement in migration.split(";"):
                    connection.execute(statement)
            if version < len(_MIGRATIONS):
                connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
        self._is_prepared = True


class TagStore:
    """Tags that change during an instance's life (Ray's node status, its config hashes).

    They are this machine's own: the head's workers are known to the head, the head to the
    machine that ran `ray up`.
    """

    def __init__(self, state: State) -> None:
        self._state = state

    def merge(self, instance_id: str, tags: Mapping[str, str]) -> None:
        """Adds and replaces; never removes."""
        rows = [(instance_id, key, value) for key, value in tags.items()]
        with self._state.transaction() as connection:
            connection.executemany("REPLACE INTO tags VALUES (?, ?, ?)", rows)

    def of(self, instance_id: str) -> dict[str, str]:
        with self._state.reading() as connection:
            rows = connection.execute(
                "SELECT key, value FROM tags WHERE instance_id = ?", (instance_id,)
            ).fetchall()
        return {row["key"]: row["value"] for row in rows}

    def all(self) -> dict[str, dict[str, str]]:
        """Tags by instance id, in one read: a reconcile asks for every node."""
        with self._state.reading() as connection:
            rows = connection.execute("SELECT instance_id, key, value FROM tags").fetchall()
        found: dict[str, dict[str, str]] = {}
        for row in rows:
            found.setdefault(row["instance_id"], {})[row["key"]] = row["value"]
        return found

    def forget(self, instance_id: str) -> None:
        with self._state.transaction() as connection:
            connection.execute("DELETE FROM tags WHERE instance_id = ?", (instance_id,))
