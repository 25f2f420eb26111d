"""What a run has cost over the lives of its heads: what is known of it, and the most of the rest.

A head alone knows the machines that it launched. What it knew comes to the laptop with each
`ray up` and `ray down`; a head that was lost, or has ended itself, tells no more. For the time
since its last word the run then counts what the head's caps allowed it to spend: too much,
never too little.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from autoscaler.domain import Charge
from autoscaler.money.budget import minutes_billed, spent_cents


@dataclass(frozen=True, slots=True)
class Silence:
    """From a head's last word until it was known to be gone, with its caps (None is none).

    `max_cents` is the whole run's until then.
    """

    from_s: float
    until_s: float
    max_cents_per_hour: int | None
    max_cents: int | None


def most(silence: Silence, others: Iterable[Charge]) -> Charge:
    """The most that machines nobody told of may have cost, beside `others` that are known."""
    others = list(others)
    bounds: list[int] = []
    minutes = minutes_billed(Charge(None, silence.from_s, silence.until_s), silence.until_s)
    if silence.max_cents_per_hour is not None:
        # One minute more, since each machine's last one counts whole.
        may_cents = -(-silence.max_cents_per_hour * (minutes + 1) // 60)
        bounds.append(may_cents - _known_within(others, silence))
    if silence.max_cents is not None:
        known_cents = spent_cents(_until(others, silence.until_s), silence.until_s)
        bounds.append(silence.max_cents - (known_cents or 0))
    price = -(-max(0, min(bounds)) * 60 // minutes) if bounds else None
    return Charge(price, silence.from_s, silence.until_s)


def known(connection: sqlite3.Connection, cluster: str) -> list[Charge]:
    """Of the present run."""
    rows = connection.execute(
        "SELECT price_cents_per_hour, started_s, ended_s FROM charges "
        "WHERE cluster = ? AND closed = 0 ORDER BY started_s, instance_id",
        (cluster,),
    ).fetchall()
    return [Charge(*row) for row in rows]


def unseen(connection: sqlite3.Connection, cluster: str) -> list[Charge]:
    """The most for each silence of the present run; None as price where nothing bounds it."""
    rows = connection.execute(
        "SELECT reported_s, ended_s, max_cents_per_hour, max_cents FROM charges "
        "WHERE cluster = ? AND closed = 0 AND reported_s < ended_s ORDER BY ended_s",
        (cluster,),
    ).fetchall()
    charges = known(connection, cluster) if rows else []
    found: list[Charge] = []
    for row in rows:
        found.append(most(Silence(*row), charges + found))
    return found


def _known_within(charges: Iterable[Charge], silence: Silence) -> int:
    """What the known machines have taken of the hourly cap, in whole cents at the least."""
    total = 0
    for c in charges:
        until_s = min(silence.until_s if c.ended_s is None else c.ended_s, silence.until_s)
        seconds = until_s - max(c.started_s, silence.from_s)
        total += int(max(0.0, seconds) * (c.price_cents_per_hour or 0) / 3600)
    return total


def _until(charges: Iterable[Charge], at_s: float) -> list[Charge]:
    return [
        Charge(
            c.price_cents_per_hour, c.started_s, at_s if c.ended_s is None else min(c.ended_s, at_s)
        )
        for c in charges
        if c.started_s < at_s
    ]
