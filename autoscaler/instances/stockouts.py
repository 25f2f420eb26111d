"""Closed places, remembered for all processes of this machine; the rules are `placement`'s."""

import sqlite3
from collections.abc import Collection

from autoscaler.domain import Offering
from autoscaler.instances.placement import Closure, Reason, close, lend_probe, reopens_s
from autoscaler.state import State


class Stockouts:
    def __init__(self, state: State, account: str) -> None:
        self._state = state
        self._account = account

    def all(self) -> list[Closure]:
        with self._state.reading() as connection:
            return self._closures(connection)

    def close(
        self, offering: Offering, reason: Reason, now_s: float, *, advertised: bool
    ) -> Closure:
        """One more refusal; ends a probe into the place."""
        with self._state.transaction() as connection:
            previous = [
                closure
                for closure in self._closures(connection)
                if (closure.offering, closure.reason) == (offering, reason)
            ]
            closure = close(
                previous[0] if previous else None, offering, reason, now_s, advertised=advertised
            )
            self._write(connection, closure)
        return closure

    def claim(self, offering: Offering, now_s: float, *, advertised: bool) -> bool:
        """Takes the right to launch into a place: free if open, one at a time if half-open.

        After True, report the answer with `close`, `reopen` or `release`; a claimant that
        dies loses its right after a while.
        """
        with self._state.transaction() as connection:
            mine = [c for c in self._closures(connection) if c.covers(offering)]
            if any(reopens_s(closure, advertised=advertised) > now_s for closure in mine):
                return False
            for closure in mine:
                self._write(connection, lend_probe(closure, now_s))
        return True

    def release(self, offering: Offering) -> None:
        """The claimed launch had no answer about capacity: another may try at once."""
        with self._state.transaction() as connection:
            for closure in self._closures(connection):
                if closure.covers(offering):
                    connection.execute(
                        "UPDATE closures SET probe_until_s = NULL WHERE account = ? AND "
                        "instance_type = ? AND region = ? AND reason = ?",
                        (self._account, *_key(closure)),
                    )

    def reopen(self, offering: Offering) -> None:
        """A launch succeeded: all that refused it is over, except a suspicion.

        A machine that starts is no proof of CUDA: the right to test a suspicion stays with
        this launch until `clear` (the check passed) or `close` (it failed again).
        """
        self._remove(offering, keep=(Reason.SUSPECT, Reason.ENDING))

    def clear(self, offering: Offering) -> None:
        """The place is proven good."""
        self._remove(offering, keep=(Reason.ENDING,))

    def _remove(self, offering: Offering, keep: Collection[Reason]) -> None:
        with self._state.transaction() as connection:
            for closure in self._closures(connection):
                if closure.covers(offering) and closure.reason not in keep:
                    connection.execute(
                        "DELETE FROM closures WHERE account = ? AND instance_type = ? AND "
                        "region = ? AND reason = ?",
                        (self._account, *_key(closure)),
                    )

    def _closures(self, connection: sqlite3.Connection) -> list[Closure]:
        rows = connection.execute(
            "SELECT * FROM closures WHERE account = ? ORDER BY instance_type, region, reason",
            (self._account,),
        ).fetchall()
        return [
            Closure(
                Offering(row["instance_type"], row["region"]),
                Reason[row["reason"]],
                row["strikes"],
                row["closed_s"],
                row["next_try_s"],
                bool(row["advertised"]),
                row["probe_until_s"],
            )
            for row in rows
        ]

    def _write(self, connection: sqlite3.Connection, closure: Closure) -> None:
        connection.execute(
            "REPLACE INTO closures (account, instance_type, region, reason, strikes, closed_s, "
            "next_try_s, advertised, probe_until_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self._account,
                *_key(closure),
                closure.strikes,
                closure.closed_s,
                closure.next_try_s,
                closure.advertised,
                closure.probe_until_s,
            ),
        )


def _key(closure: Closure) -> tuple[str, str, str]:
    return closure.offering.instance_type, closure.offering.region, closure.reason.name
