"""A run's charges on their way between the laptop and its head.

The head knows its workers, the laptop the heads: so the laptop hands a new head what the run
has cost before it, and takes over what the head has written since. Both are rows of JSON, known
by the machine's id, so that the same ones may be given again. Idempotent, all of it.
"""

import json
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias, cast

from autoscaler.domain import Charge
from autoscaler.errors import BudgetError, ProtocolError
from autoscaler.money.budget import Caps, dollars, spent_cents
from autoscaler.money.ledger import Ledger, unseen_charges
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
            charges += unseen_charges(connection, cluster)
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


# One run over several heads: what laptop and head tell each other of its cost, and the user.


class Handover:
    """Thread-safe."""

    def __init__(
        self,
        cluster: str,
        caps: Caps,
        former_charges: Sequence[Row],
        books: Books,
        ledger: Ledger,
        clock: Callable[[], float],
    ) -> None:
        self._cluster = cluster
        self._caps = caps
        self._former_charges = former_charges
        self._books = books
        self._ledger = ledger
        self._clock = clock
        self._lock = threading.Lock()
        self._is_taken = False

    def to_head(self, head_id: str) -> list[Row]:
        """On the laptop, each time before a head gets its configuration, where this goes."""
        self._books.entrust(head_id, self._caps)
        return self._books.before(self._cluster, head_id)

    def from_laptop(self) -> None:
        """On the head, before anything is launched. Raises StateError; then call it again."""
        with self._lock:
            if not self._is_taken and self._former_charges:
                self._books.take(self._cluster, self._former_charges)
            self._is_taken = True

    def from_head(self, head_id: str, output: str) -> None:
        """On the laptop: what `charges_report` has said. Raises ProtocolError."""
        self._books.take_report(self._cluster, head_id, output, self._clock())

    def explained(self, error: BudgetError) -> BudgetError:
        """The refusal of a head, with what of the run stands behind it."""
        ledger, now_s = self._ledger, self._clock()
        unseen = ledger.unseen(self._cluster)
        if not unseen and not ledger.charges(self._cluster):
            return error
        text = f"{error}. A run goes on until `ray down` has verified its end"
        if unseen:
            most = spent_cents(unseen, now_s)
            sum_ = "an unknown sum" if most is None else f"{dollars(most)}"
            text += (
                f"; of this one {sum_} counts for workers of heads that ended before they told "
                "what those have cost"
            )
        if running := ledger.running_ids(self._cluster):
            text += f"; {len(running)} of its machines may still bill"
        return BudgetError(f"{text}: run `ray down`, and the next starts from zero")
