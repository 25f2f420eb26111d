"""A run's charges on their way between the laptop and its heads, so that one cap counts them all.

The head knows its workers, the laptop the heads. So the laptop exports to a new head what the
run has cost before it, and imports what a head has recorded. Both are rows of JSON, keyed by the
machine's id: importing the same ones again changes nothing.
"""

import json
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias, cast

from autoscaler.domain import Charge
from autoscaler.errors import BudgetError, ProtocolError
from autoscaler.money.budget import Caps, dollars, spent_cents
from autoscaler.money.ledger import Ledger, unreported_charges
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
_IMPORT = (
    f"INSERT INTO charges ({_COLUMNS}, cluster, account) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (instance_id) DO UPDATE SET "
    "price_cents_per_hour = COALESCE(price_cents_per_hour, excluded.price_cents_per_hour), "
    "started_s = MIN(started_s, excluded.started_s), "
    "ended_s = MIN(COALESCE(ended_s, excluded.ended_s), COALESCE(excluded.ended_s, ended_s))"
)
"""The earlier end counts: a laptop notices one only when it looks again."""
_RECORD_CAPS = """
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
"""Of the caps that a head has had, the loosest count."""


class SpendSync:
    """One cluster's exchange of charges. Thread-safe, idempotent; raises StateError."""

    def __init__(
        self, cluster: str, state: State, ledger: Ledger, clock: Callable[[], float]
    ) -> None:
        self._cluster = cluster
        self._state = state
        self._ledger = ledger
        self._clock = clock
        self._lock = threading.Lock()
        self._has_imported = False

    def export_for_head(self, head_id: str, caps: Caps) -> list[Row]:
        """On the laptop, each time before a head gets its configuration: what the run has cost.

        That is the sum of what had ended before the head was launched, and the machines that
        it found running. From now on the head counts as launching within `caps`.
        """
        hourly, total = caps.max_price_cents_per_hour, caps.max_total_cents
        with self._state.transaction() as connection:
            connection.execute(_RECORD_CAPS, {"head": head_id, "hourly": hourly, "total": total})
        with self._state.reading() as connection:
            head = connection.execute(
                "SELECT started_s FROM charges WHERE instance_id = ?", (head_id,)
            ).fetchone()
            if head is None:
                return []
            began_s: float = head["started_s"]
            ended = connection.execute(
                f"SELECT {_COLUMNS} FROM charges WHERE cluster = ? AND closed = 0 AND ended_s < ?",
                (self._cluster, began_s),
            ).fetchall()
            running = connection.execute(
                f"SELECT {_COLUMNS} FROM charges WHERE cluster = ? AND closed = 0 "
                "AND instance_id != ? AND started_s <= ? AND (ended_s IS NULL OR ended_s >= ?)",
                (self._cluster, head_id, began_s, began_s),
            ).fetchall()
            charges = [Charge(*tuple(row)[3:]) for row in ended]
            charges += unreported_charges(connection, self._cluster)
        rows: list[Row] = [list(row) for row in running]
        if charges:
            spent = spent_cents(charges, began_s)
            until_s = float(int(began_s))
            rows.append([f"former-{head_id}", FORMER, "", spent, until_s - _HOUR_S, until_s])
        return rows

    def import_rows(self, rows: Iterable[Sequence[object]]) -> None:
        """On the head, before anything is launched; writes once, and again only after an error."""
        with self._lock:
            if not self._has_imported:
                values = [(*row, self._cluster, self._ledger.account) for row in rows]
                if values:
                    with self._state.transaction() as connection:
                        connection.executemany(_IMPORT, values)
            self._has_imported = True

    def report(self) -> str:
        """On the head: one line with every charge of the present run that this machine has."""
        with self._state.reading() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM charges WHERE cluster = ? AND closed = 0 "
                "AND instance_type != ? ORDER BY started_s, instance_id",
                (self._cluster, FORMER),
            ).fetchall()
        return f"{_MARK} {json.dumps([list(row) for row in rows])}"

    def import_report(self, head_id: str, output: str) -> None:
        """On the laptop: takes over what a head's `report` printed, found in its output.

        Raises ProtocolError where there is none: then nothing is changed.
        """
        values = [(*row, self._cluster, self._ledger.account) for row in _parse_report(output)]
        with self._state.transaction() as connection:
            connection.executemany(_IMPORT, values)
            connection.execute(
                "UPDATE charges SET reported_s = ? WHERE instance_id = ?", (self._clock(), head_id)
            )

    def explain(self, error: BudgetError) -> BudgetError:
        """A head's refused launch, with what the run has spent so far and what to do."""
        unreported = self._ledger.unreported(self._cluster)
        if not unreported and not self._ledger.charges(self._cluster):
            return error
        text = f"{error}. A run goes on until `ray down` has verified its end"
        if unreported:
            cents = spent_cents(unreported, self._clock())
            bound = "an unknown sum" if cents is None else dollars(cents)
            text += (
                f"; {bound} of this one is the upper bound for workers of heads that ended "
                "before they reported the cost"
            )
        if running := self._ledger.running_ids(self._cluster):
            text += f"; {len(running)} of its machines may still bill"
        return BudgetError(f"{text}: run `ray down`, and the next run starts from zero")


def _parse_report(output: str) -> list[Row]:
    found = _REPORT.findall(output)
    try:
        rows = cast(list[Row], json.loads(found[-1]))
        if all(_is_row(row) for row in rows):
            return rows
    except (IndexError, ValueError, TypeError):
        pass
    raise ProtocolError("the head did not report what its machines cost")


def _is_row(row: Sequence[object]) -> bool:
    return (
        len(row) == 6
        and all(isinstance(text, str) for text in row[:3])
        and isinstance(row[3], int | None)
        and isinstance(row[4], int | float)
        and isinstance(row[5], int | float | None)
    )
