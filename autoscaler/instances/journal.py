"""The launch journal: every intended launch, recorded before its request, and its outcome.

Lambda has no idempotency token, so a launch is recorded here first, under a nonce that
goes out as a tag and in the name. An intent moves one way:

    OPEN ──▶ ADOPTED     its instance is known
         ──▶ REFUSED     Lambda surely made nothing
         ──▶ GIVEN_UP    outcome unknown and no caller waits: an arrival is to be terminated
                 ├──▶ COLLECTED   it arrived and was terminated
                 └──▶ ABSENT      it never arrived in the time that arrivals take

OPEN is also what a process leaves that dies between its request and the answer.
"""

import enum
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from autoscaler.domain import Charge, Offering
from autoscaler.money.budget import Allow, Decision
from autoscaler.money.ledger import known_charges, unreported_charges
from autoscaler.state import State

KEEP_S = 7 * 86_400.0
"""Settled intents are kept this long, so that even a very late arrival is recognised."""


class Outcome(enum.StrEnum):
    """Of an intent; the state file has the values."""

    OPEN = "open"
    ADOPTED = "adopted"
    REFUSED = "refused"
    GIVEN_UP = "given-up"
    COLLECTED = "collected"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Intent:
    """One intended launch. `settled_s` is when the outcome last changed."""

    nonce: str
    cluster: str
    offering: Offering
    price_cents_per_hour: int | None
    created_s: float
    outcome: Outcome = Outcome.OPEN
    settled_s: float | None = None
    instance_id: str | None = None
    detail: str = ""


UNRESOLVED = (Outcome.OPEN, Outcome.GIVEN_UP)
UNWANTED = (Outcome.GIVEN_UP, Outcome.COLLECTED, Outcome.ABSENT)
"""An instance with the nonce of such an intent must be terminated."""
_DONE = (Outcome.ADOPTED, Outcome.REFUSED)

_MAY_FOLLOW = {
    Outcome.ADOPTED: (Outcome.OPEN,),
    Outcome.REFUSED: (Outcome.OPEN,),
    Outcome.GIVEN_UP: (Outcome.OPEN,),
    Outcome.COLLECTED: (Outcome.GIVEN_UP, Outcome.ABSENT),
    Outcome.ABSENT: (Outcome.GIVEN_UP,),
}

Guard = Callable[[list[Charge]], Decision]
"""Decides over everything of the cluster that costs, or may: its charges, known and unreported, and
its open intents."""


class Journal:
    """Safe for many threads and processes; every method raises StateError."""

    def __init__(self, state: State, account: str) -> None:
        """`account` is the key's: what is written from now on is its own."""
        self._state = state
        self._account = account

    def begin(self, intent: Intent, guard: Guard) -> Decision:
        """Records the intent if the guard allows it, both in one transaction.

        Two launches that each fit the budget alone cannot pass together. The intent is on
        disk when this returns. Intents settled long ago are forgotten on the way.
        """
        with self._state.transaction() as connection:
            connection.execute(
                "DELETE FROM intents WHERE outcome NOT IN (?, ?) AND settled_s < ?",
                (*UNRESOLVED, intent.created_s - KEEP_S),
            )
            decision = guard(_commitments(connection, intent.cluster))
            if isinstance(decision, Allow):
                connection.execute(
                    "INSERT INTO intents (nonce, cluster, instance_type, region, "
                    "price_cents_per_hour, created_s, outcome, account) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        intent.nonce,
                        intent.cluster,
                        intent.offering.instance_type,
                        intent.offering.region,
                        intent.price_cents_per_hour,
                        intent.created_s,
                        Outcome.OPEN,
                        self._account,
                    ),
                )
        return decision

    def settle(
        self,
        nonce: str,
        outcome: Outcome,
        now_s: float,
        *,
        instance_id: str | None = None,
        detail: str = "",
    ) -> bool:
        """Moves an intent on. False if it is not in a state that this outcome may follow."""
        allowed = _MAY_FOLLOW[outcome]
        marks = ", ".join("?" * len(allowed))
        with self._state.transaction() as connection:
            cursor = connection.execute(
                "UPDATE intents SET outcome = ?, settled_s = ?, detail = ?, "
                f"instance_id = COALESCE(?, instance_id) WHERE nonce = ? AND outcome IN ({marks})",
                (outcome, now_s, detail, instance_id, nonce, *allowed),
            )
        return cursor.rowcount == 1

    def commitments(self, cluster: str) -> list[Charge]:
        """What a guard decides over, to ask before a launch slot is used up."""
        with self._state.reading() as connection:
            return _commitments(connection, cluster)

    def get(self, nonce: str) -> Intent | None:
        found = self._select("nonce = ?", (nonce,))
        return found[0] if found else None

    def watched(self, cluster: str) -> list[Intent]:
        """What a list of instances is to be compared with: open and unwanted intents."""
        return self._select("cluster = ? AND outcome NOT IN (?, ?)", (cluster, *_DONE))

    def unresolved(self, cluster: str) -> list[Intent]:
        """Intents whose machine may yet appear, oldest first."""
        return [intent for intent in self.watched(cluster) if intent.outcome in UNRESOLVED]

    def unwanted(self, cluster: str) -> dict[str, Intent]:
        """By nonce: intents whose machine must not be used, whenever it appears."""
        return {i.nonce: i for i in self.watched(cluster) if i.outcome in UNWANTED}

    def nonces(self, cluster: str) -> list[str]:
        """Of every intent that may have a machine: one without tags is known by its nonce."""
        found = self._select("cluster = ? AND outcome != ?", (cluster, Outcome.REFUSED))
        return [intent.nonce for intent in found]

    def foreign(self, cluster: str) -> dict[str, str]:
        """Nonces of unresolved intents of another account's, with the account."""
        with self._state.reading() as connection:
            rows = connection.execute(
                "SELECT nonce, account FROM intents "
                "WHERE cluster = ? AND outcome IN (?, ?) AND account != ?",
                (cluster, *UNRESOLVED, self._account),
            ).fetchall()
        return {row["nonce"]: row["account"] for row in rows}

    def take_over(self, cluster: str, account: str) -> None:
        """An account's intents become this key's."""
        with self._state.transaction() as connection:
            connection.execute(
                "UPDATE intents SET account = ? WHERE cluster = ? AND account = ?",
                (self._account, cluster, account),
            )

    def _select(self, where: str, values: tuple[str, ...]) -> list[Intent]:
        with self._state.reading() as connection:
            rows = connection.execute(
                f"SELECT * FROM intents WHERE {where} ORDER BY created_s, nonce", values
            ).fetchall()
        return [_intent(row) for row in rows]


def _commitments(connection: sqlite3.Connection, cluster: str) -> list[Charge]:
    rows = connection.execute(
        "SELECT price_cents_per_hour, created_s FROM intents "
        "WHERE cluster = ? AND outcome IN (?, ?)",
        (cluster, *UNRESOLVED),
    ).fetchall()
    intended = [Charge(*row) for row in rows]
    return known_charges(connection, cluster) + unreported_charges(connection, cluster) + intended


def _intent(row: sqlite3.Row) -> Intent:
    return Intent(
        nonce=row["nonce"],
        cluster=row["cluster"],
        offering=Offering(row["instance_type"], row["region"]),
        price_cents_per_hour=row["price_cents_per_hour"],
        created_s=row["created_s"],
        outcome=Outcome(row["outcome"]),
        settled_s=row["settled_s"],
        instance_id=row["instance_id"],
        detail=row["detail"],
    )
