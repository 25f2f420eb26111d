"""A run's charges on their way between the laptop and its head.

The head knows its workers, the laptop the heads: so the laptop hands a new head what the run
has cost before it, and takes over what the head has written since. Both are rows of JSON, known
by the machine's id, so that the same ones may be given again. Idempotent, all of it.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import TypeAlias, cast

from autoscaler import lives
from autoscaler.domain import Charge
from autoscaler.errors import ProtocolError
from autoscaler.money.budget import Caps, spent_cents
from autoscaler.state import State

Row: TypeAlias = list[str | float | None]
"""Instance id, type, region, price in cents an hour or None, start and end (or None) in epoch
seconds."""

FORMER = "former-heads"
"""In place of a type: what the run had cost before this head, as one charge of an hour."""
_MARK = "raylambda-charges"
_REPORT = re.compile(rf"{_MARK} (\[.*\])")
_HOUR_S = 3600.0
_COLUMNS = "instance_id, instance_type, region, price_cents_per_hour, started_s, ended_s"
_TAKE = (
    f"INSERT INTO charges ({_COLUMNS}, cluster, account) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (instance_id) DO UPDATE SET "
    "price_cents_per_hour = COALESCE(price_cents_per_hour, excluded.price_cents_per_hour), "
    "started_s = MIN(started_s, excluded.started_s), "
    "ended_s = MIN(COALESCE(ended_s, excluded.ended_s), COALESCE(excluded.ended_s, ended_s))"
)
"""The earlier end counts: a laptop notices one only when it looks again."""
_ENTRUST = """
UPDATE charges SET
    max_cents_per_hour = CASE
        WHEN reported_s IS NULL THEN :hourly
        WHEN max_cents_per_hour IS NULL OR :hourly IS NULL THEN NULL
        ELSE MAX(max_cents_per_hour, :hourly) END,
    max_cents = CASE
        WHEN reported_s IS NULL THEN :total
        WHEN max_cents IS NULL OR :total IS NULL THEN NULL
        ELSE MAX(max_cents, :total) END,
    reported_s = COALESCE(reported_s, started_s)
WHERE instance_id = :head
"""


class Books:
    def __init__(self, state: State, account: str) -> None:
        self._state = state
        self._account = account

    def entrust(self, head_id: str, caps: Caps) -> None:
        """From now on this head launches within these caps; of several, the loosest count."""
        hourly, total = caps.max_price_cents_per_hour, caps.max_total_cents
        with self._state.transaction() as connection:
            connection.execute(_ENTRUST, {"head": head_id, "hourly": hourly, "total": total})

    def before(self, cluster: str, head_id: str) -> list[Row]:
        """What a head must know of the run: the sum of what had ended before it was launched,
        and the machines that it has found running."""
        with self._state.reading() as connection:
            head = connection.execute(
                "SELECT started_s FROM charges WHERE instance_id = ?", (head_id,)
            ).fetchone()
            if head is None:
                return []
            began_s: float = head["started_s"]
            ended = connection.execute(
                f"SELECT {_COLUMNS} FROM charges WHERE cluster = ? AND closed = 0 AND ended_s < ?",
                (cluster, began_s),
            ).fetchall()
            running = connection.execute(
                f"SELECT {_COLUMNS} FROM charges WHERE cluster = ? AND closed = 0 "
                "AND instance_id != ? AND started_s <= ? AND (ended_s IS NULL OR ended_s >= ?)",
                (cluster, head_id, began_s, began_s),
            ).fetchall()
            charges = [Charge(*tuple(row)[3:]) for row in ended]
            charges += lives.unseen(connection, cluster)
        rows: list[Row] = [list(row) for row in running]
        if charges:
            spent = spent_cents(charges, began_s)
            until_s = float(int(began_s))
            rows.append([f"former-{head_id}", FORMER, "", spent, until_s - _HOUR_S, until_s])
        return rows

    def report(self, cluster: str) -> str:
        """One line with every charge that this machine has of the present run."""
        with self._state.reading() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM charges WHERE cluster = ? AND closed = 0 "
                "AND instance_type != ? ORDER BY started_s, instance_id",
                (cluster, FORMER),
            ).fetchall()
        return f"{_MARK} {json.dumps([list(row) for row in rows])}"

    def take(self, cluster: str, rows: Iterable[Sequence[object]]) -> None:
        with self._state.transaction() as connection:
            connection.executemany(_TAKE, [(*row, cluster, self._account) for row in rows])

    def take_report(self, cluster: str, head_id: str, output: str, now_s: float) -> None:
        """Raises ProtocolError where the output holds no report: then nothing is changed."""
        rows = _read(output)
        with self._state.transaction() as connection:
            connection.executemany(_TAKE, [(*row, cluster, self._account) for row in rows])
            connection.execute(
                "UPDATE charges SET reported_s = ? WHERE instance_id = ?", (now_s, head_id)
            )


def _read(output: str) -> list[Row]:
    found = _REPORT.findall(output)
    try:
        rows = cast(list[Row], json.loads(found[-1]))
        if all(_is_row(row) for row in rows):
            return rows
    except (IndexError, ValueError, TypeError):
        pass
    raise ProtocolError("the head did not say what its machines have cost")


def _is_row(row: Sequence[object]) -> bool:
    return (
        len(row) == 6
        and all(isinstance(text, str) for text in row[:3])
        and isinstance(row[3], int | None)
        and isinstance(row[4], int | float)
        and isinstance(row[5], int | float | None)
    )
