"""The bill: per instance, by the minute begun, at the hourly price."""

import math
from collections.abc import Iterable
from typing import Any

from autoscaler.simulator.cloud.instances import Instance


def billed_minutes(instance: Instance, now: float) -> int:
    """Minutes on the meter so far, each begun one counted whole."""
    if instance.metered_from is None:
        return 0
    until = now if instance.metered_until is None else instance.metered_until
    # A meter that ran for no time at all has still begun its first minute.
    return max(1, math.ceil((until - instance.metered_from) / 60))


def cost_cents(instances: Iterable[Instance], now: float) -> float:
    """What the instances have cost so far, in cents; exact until the one last division."""
    return sum(billed_minutes(i, now) * i.type.price_cents_per_hour for i in instances) / 60


def burn_cents_per_hour(instances: Iterable[Instance]) -> int:
    """The price of what has not ended, whether its meter has started or not."""
    return sum(i.type.price_cents_per_hour for i in instances if i.alive)


def ledger(instances: Iterable[Instance], now: float) -> dict[str, Any]:
    """Every instance there ever was with its cost, and the sums."""
    rows = [_row(i, now) for i in instances]
    return {
        "now": now,
        "instances": len(rows),
        "alive": sum(r["alive"] for r in rows),
        "minutes": sum(r["minutes"] for r in rows),
        "cents": sum(r["minutes"] * r["price_cents_per_hour"] for r in rows) / 60,
        "rows": rows,
    }


def _row(i: Instance, now: float) -> dict[str, Any]:
    return {
        "id": i.id,
        "name": i.name,
        "instance_type": i.type.name,
        "region": i.spec.region,
        "tags": i.tags,
        "status": i.status,
        "ip": i.address.ip if i.address else None,
        "alive": i.alive,
        "ailments": sorted(i.ailments),
        "launched_at": i.launched_at,
        "ended_at": i.ended_at,
        "metered_from": i.metered_from,
        "metered_until": i.metered_until,
        "minutes": billed_minutes(i, now),
        "price_cents_per_hour": i.type.price_cents_per_hour,
        "cents": cost_cents([i], now),
        "history": [{"at": at, "status": status} for at, status in i.history],
    }
