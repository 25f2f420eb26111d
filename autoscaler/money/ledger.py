"""The spend ledger: what each machine of a cluster costs, as far as this machine knows.

The machine that ran `ray up` knows the head, the head knows its workers; Lambda's own bill
is the truth. A run is a cluster from its first machine to its verified end (`ray down`),
however many heads it has had: then its charges are closed, and the next run of the same name
starts from zero. What the workers of a lost head have cost is bounded by its caps.
"""

import sqlite3
from collections.abc import Collection, Iterable

from autoscaler.domain import Charge, Instance, Offering
from autoscaler.lambda_cloud.tags import created_s
from autoscaler.money.budget import UnreportedInterval, upper_bound
from autoscaler.state import State

_START = (
    "INSERT INTO charges (instance_id, cluster, instance_type, region, price_cents_per_hour, "
    "started_s, account) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (instance_id) DO UPDATE SET "
    "price_cents_per_hour = COALESCE(price_cents_per_hour, excluded.price_cents_per_hour)"
)
_REOPEN = "UPDATE charges SET ended_s = NULL, closed = 0 WHERE instance_id = ?"
REOPEN_S = 60.0
"""A machine that a list shows at work so long after its end has not ended: lists lag by 30 s."""
_END = "UPDATE charges SET ended_s = ? WHERE instance_id = ? AND ended_s IS NULL"


class Ledger:
    """The charges of every cluster in the state file. Thread-safe; raises StateError."""

    def __init__(self, state: State, account: str) -> None:
        """`account` is the key's: what is written from now on is its own."""
        self._state = state
        self.account = account

    def start(
        self,
        cluster: str,
        instance_id: str,
        offering: Offering,
        price_cents_per_hour: int | None,
        started_s: float,
    ) -> None:
        """Idempotent: the first start and the first known price of an instance count."""
        with self._state.transaction() as connection:
            connection.execute(
                _START, self._row(cluster, instance_id, offering, price_cents_per_hour, started_s)
            )

    def observe(self, cluster: str, instances: Iterable[Instance], now_s: float) -> None:
        """Takes over what a list shows: machines launched elsewhere, ends, and ends that were none.

        A machine that is missing from the list is not ended here: lists leave some out.
        """
        with self._state.reading() as connection:
            rows = connection.execute(
                "SELECT instance_id, ended_s FROM charges WHERE cluster = ?", (cluster,)
            ).fetchall()
        ended_s: dict[str, float | None] = {row["instance_id"]: row["ended_s"] for row in rows}
        started: list[tuple[object, ...]] = []
        ended: list[tuple[object, ...]] = []
        reopened: list[tuple[object, ...]] = []
        for instance in instances:
            end_s = ended_s.get(instance.id)
            if instance.id not in ended_s and not instance.status.is_terminating_or_gone:
                price = instance.instance_type.price_cents_per_hour
                started_s = created_s(instance)
                started_s = now_s if started_s is None else min(started_s, now_s)
                started.append(self._row(cluster, instance.id, instance.offering, price, started_s))
            elif (
                instance.status.is_terminating_or_gone and end_s is None and instance.id in ended_s
            ):
                ended.append((now_s, instance.id))
            elif (
                not instance.status.is_terminating_or_gone
                and end_s is not None
                and now_s - end_s > REOPEN_S
            ):
                reopened.append((instance.id,))
        if started or ended or reopened:
            with self._state.transaction() as connection:
                connection.executemany(_START, started)
                connection.executemany(_END, ended)
                connection.executemany(_REOPEN, reopened)

    def end(self, instance_ids: Collection[str], now_s: float) -> None:
        """Idempotent: the first end counts; an unknown instance is passed over."""
        if instance_ids:
            with self._state.transaction() as connection:
                connection.executemany(_END, [(now_s, id_) for id_ in instance_ids])

    def charges(self, cluster: str) -> list[Charge]:
        """Of the present run."""
        with self._state.reading() as connection:
            return known_charges(connection, cluster)

    def unreported(self, cluster: str) -> list[Charge]:
        """Upper bound of the present run's unreported spend, as charges beside `charges`."""
        with self._state.reading() as connection:
            return unreported_charges(connection, cluster)

    def clusters(self) -> list[str]:
        """Those with charges in their present run."""
        with self._state.reading() as connection:
            rows = connection.execute(
                "SELECT DISTINCT cluster FROM charges WHERE closed = 0 ORDER BY cluster"
            ).fetchall()
        return [row["cluster"] for row in rows]

    def running_ids(self, cluster: str) -> list[str]:
        """Instances of the present run that bill, as far as we know."""
        with self._state.reading() as connection:
            rows = connection.execute(
                "SELECT instance_id FROM charges WHERE cluster = ? AND ended_s IS NULL "
                "ORDER BY started_s, instance_id",
                (cluster,),
            ).fetchall()
        return [row["instance_id"] for row in rows]

    def close_run(self, cluster: str) -> None:
        """After a verified end: the next run starts at zero."""
        with self._state.transaction() as connection:
            connection.execute(
                "UPDATE charges SET closed = 1 WHERE cluster = ? AND ended_s IS NOT NULL",
                (cluster,),
            )

    def foreign(self, cluster: str) -> dict[str, str]:
        """Ids of machines that bill, as far as we know, to another account; with the account."""
        with self._state.reading() as connection:
            rows = connection.execute(
                "SELECT instance_id, account FROM charges "
                "WHERE cluster = ? AND ended_s IS NULL AND account != ?",
                (cluster, self.account),
            ).fetchall()
        return {row["instance_id"]: row["account"] for row in rows}

    def take_over(self, cluster: str, account: str) -> None:
        """An account's machines become this key's."""
        with self._state.transaction() as connection:
            connection.execute(
                "UPDATE charges SET account = ? WHERE cluster = ? AND account = ?",
                (self.account, cluster, account),
            )

    def _row(
        self, cluster: str, id_: str, offering: Offering, price: int | None, started_s: float
    ) -> tuple[object, ...]:
        return id_, cluster, offering.instance_type, offering.region, price, started_s, self.account


def known_charges(connection: sqlite3.Connection, cluster: str) -> list[Charge]:
    """Of the present run, in the order of their starts."""
    rows = connection.execute(
        "SELECT price_cents_per_hour, started_s, ended_s FROM charges "
        "WHERE cluster = ? AND closed = 0 ORDER BY started_s, instance_id",
        (cluster,),
    ).fetchall()
    return [Charge(*row) for row in rows]


def unreported_charges(connection: sqlite3.Connection, cluster: str) -> list[Charge]:
    """Upper bounds for the present run, one for each lost head, in the order of their ends."""
    rows = connection.execute(
        "SELECT reported_s, ended_s, max_cents_per_hour, max_cents FROM charges "
        "WHERE cluster = ? AND closed = 0 AND reported_s < ended_s ORDER BY ended_s",
        (cluster,),
    ).fetchall()
    charges = known_charges(connection, cluster) if rows else []
    found: list[Charge] = []
    for row in rows:
        found.append(upper_bound(UnreportedInterval(*row), charges + found))
    return found
