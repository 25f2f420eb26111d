"""Unavailable offerings: what failed lately, and when one launch may probe it again.

An offering (an instance type in a region) whose launch Lambda refused, or whose machine failed
its health check, is unavailable for a while, longer with each failure. After that one launch
probes it, and all others keep away until that launch has an answer. What the API advertises is
a hint: an offering that becomes advertised while it is unavailable is probed early.

They are kept in the state file, for all processes of this machine.
"""

import enum
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass, replace

from autoscaler.domain import Offering
from autoscaler.state import State

ANYWHERE = "*"
"""In an unavailable offering: every type, every region."""
EVERYWHERE = Offering(ANYWHERE, ANYWHERE)


class Reason(enum.StrEnum):
    """Why an offering is unavailable. The state file has the names, people see the values."""

    STOCKOUT = "no capacity"
    SUSPECT = "failed its GPU or network check"
    QUOTA = "the account's quota is used up"
    REFUSED_KEY = "Lambda refuses the API key or the account"
    ENDING = "the cluster is ending"


@dataclass(frozen=True, slots=True)
class BackOff:
    """Seconds without a launch after the first failure, doubled with each, up to `max_s`."""

    first_s: float
    max_s: float
    probe_s: float = 120.0
    """How long a probe keeps the other launches away."""


BACK_OFF = {
    # Openings last about 84 s and 27 % of launches are refused though advertised: come back
    # while the opening may last, and then once a minute, so that none passes unseen. The rate
    # of launches bounds what many unavailable offerings ask for together.
    Reason.STOCKOUT: BackOff(30.0, 60.0),
    # A machine with dead CUDA goes back to the pool and is handed out again for some time; a
    # suspicion is tested by a whole boot and its checks, not by the launch's answer.
    Reason.SUSPECT: BackOff(600.0, 3600.0, probe_s=1800.0),
    Reason.QUOTA: BackOff(300.0, 1800.0),
    Reason.REFUSED_KEY: BackOff(60.0, 600.0),
    # Longer than the end of a cluster may take.
    Reason.ENDING: BackOff(1800.0, 1800.0),
}
MIN_RETRY_S = 24.0
"""A newly advertised offering is probed no sooner after its failure: advertising may flicker."""
FORGET_S = 1800.0
"""A failure so long after the last one's back-off starts a new series."""


@dataclass(frozen=True, slots=True)
class UnavailableOffering:
    """Not to be launched until `next_try_s`. `failures` of the reason came one after the other,
    the last at `failed_s`; `advertised` says whether the API advertised the offering then."""

    offering: Offering
    reason: Reason
    failures: int
    failed_s: float
    next_try_s: float
    advertised: bool = False
    probe_until_s: float | None = None

    def covers(self, offering: Offering) -> bool:
        mine = self.offering
        return mine.instance_type in (ANYWHERE, offering.instance_type) and mine.region in (
            ANYWHERE,
            offering.region,
        )


def after_failure(
    previous: UnavailableOffering | None,
    offering: Offering,
    reason: Reason,
    now_s: float,
    *,
    advertised: bool,
) -> UnavailableOffering:
    """After one more failure; `previous` is of the same offering and reason. Pure."""
    failures = 1
    if previous is not None and now_s < previous.next_try_s + FORGET_S:
        failures = previous.failures + 1
    back_off = BACK_OFF[reason]
    # The exponent is bounded: a float overflows after a thousand failures.
    pause_s = min(back_off.first_s * 2.0 ** min(failures - 1, 30), back_off.max_s)
    return UnavailableOffering(offering, reason, failures, now_s, now_s + pause_s, advertised)


def retry_s(unavailable: UnavailableOffering, *, advertised: bool) -> float:
    """When one launch may probe the offering. Pure."""
    at_s = unavailable.next_try_s
    if unavailable.reason is Reason.STOCKOUT and advertised and not unavailable.advertised:
        at_s = min(at_s, unavailable.failed_s + MIN_RETRY_S)
    if unavailable.probe_until_s is not None:
        at_s = max(at_s, unavailable.probe_until_s)
    return at_s


def under_probe(unavailable: UnavailableOffering, now_s: float) -> UnavailableOffering:
    """While one launch probes the offering. Pure."""
    until_s = now_s + BACK_OFF[unavailable.reason].probe_s
    return replace(unavailable, probe_until_s=until_s)


class UnavailableOfferings:
    """One account's. Safe for many threads and processes; every method raises StateError."""

    def __init__(self, state: State, account: str) -> None:
        self._state = state
        self._account = account

    def all(self) -> list[UnavailableOffering]:
        """Also those whose back-off is over and that no launch has probed since."""
        with self._state.reading() as connection:
            return self._read(connection)

    def mark_unavailable(
        self, offering: Offering, reason: Reason, now_s: float, *, advertised: bool
    ) -> UnavailableOffering:
        """One more failure; ends a probe of the offering. Not idempotent: each call counts."""
        with self._state.transaction() as connection:
            previous = [
                known
                for known in self._read(connection)
                if (known.offering, known.reason) == (offering, reason)
            ]
            marked = after_failure(
                previous[0] if previous else None, offering, reason, now_s, advertised=advertised
            )
            self._write(connection, marked)
        return marked

    def claim_probe(self, offering: Offering, now_s: float, *, advertised: bool) -> bool:
        """The right to launch: everyone's while the offering is available, one launch's at a
        time when its back-off is over, nobody's before.

        After True, report the answer with `mark_unavailable`, `mark_available` or
        `release_probe`; a claimant that dies loses its right after a while.
        """
        with self._state.transaction() as connection:
            mine = [known for known in self._read(connection) if known.covers(offering)]
            if any(retry_s(known, advertised=advertised) > now_s for known in mine):
                return False
            for known in mine:
                self._write(connection, under_probe(known, now_s))
        return True

    def release_probe(self, offering: Offering) -> None:
        """The launch had no answer about capacity: another may probe at once. Idempotent."""
        with self._state.transaction() as connection:
            for known in self._read(connection):
                if known.covers(offering):
                    connection.execute(
                        "UPDATE closures SET probe_until_s = NULL WHERE account = ? AND "
                        "instance_type = ? AND region = ? AND reason = ?",
                        (self._account, *_key(known)),
                    )

    def mark_available(self, offering: Offering) -> None:
        """A launch succeeded: what had refused it is over, except a suspicion. Idempotent.

        A machine that starts is no proof of CUDA: the right to probe a suspicion stays with
        this launch until `mark_healthy` (its check passed) or `mark_unavailable` (it failed).
        """
        self._remove(offering, keep=(Reason.SUSPECT, Reason.ENDING))

    def mark_healthy(self, offering: Offering) -> None:
        """A machine of the offering has passed its health check. Idempotent."""
        self._remove(offering, keep=(Reason.ENDING,))

    def _remove(self, offering: Offering, keep: Collection[Reason]) -> None:
        with self._state.transaction() as connection:
            for known in self._read(connection):
                if known.covers(offering) and known.reason not in keep:
                    connection.execute(
                        "DELETE FROM closures WHERE account = ? AND instance_type = ? AND "
                        "region = ? AND reason = ?",
                        (self._account, *_key(known)),
                    )

    # On disk the table and two columns have their names of the first version: `closures` with
    # `strikes` (failures) and `closed_s` (failed_s).

    def _read(self, connection: sqlite3.Connection) -> list[UnavailableOffering]:
        rows = connection.execute(
            "SELECT * FROM closures WHERE account = ? ORDER BY instance_type, region, reason",
            (self._account,),
        ).fetchall()
        return [
            UnavailableOffering(
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

    def _write(self, connection: sqlite3.Connection, unavailable: UnavailableOffering) -> None:
        connection.execute(
            "REPLACE INTO closures (account, instance_type, region, reason, strikes, closed_s, "
            "next_try_s, advertised, probe_until_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self._account,
                *_key(unavailable),
                unavailable.failures,
                unavailable.failed_s,
                unavailable.next_try_s,
                unavailable.advertised,
                unavailable.probe_until_s,
            ),
        )


def _key(unavailable: UnavailableOffering) -> tuple[str, str, str]:
    offering = unavailable.offering
    return offering.instance_type, offering.region, unavailable.reason.name
