"""`raylambda status` as text: what runs and costs, what is closed until when, what happened."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autoscaler.domain import Charge, Instance, Status
from autoscaler.events import Field
from autoscaler.instances.placement import Closure, reopens_s
from autoscaler.lambda_cloud.tags import CLUSTER, USER_NODE_TYPE, created_s, kind_of
from autoscaler.money.budget import burn_cents_per_hour, cost_in_words, dollars


@dataclass(frozen=True)
class Snapshot:
    """What is known at one moment. `instances` is None when Lambda was not asked. `problem` says
    why it could not be, or why this machine's own records are missing. `charges` are of the
    present run, by cluster; `heads` are the words of clusters' heads."""

    now_s: float
    instances: Sequence[Instance] | None
    charges: Mapping[str, Sequence[Charge]]
    closures: Sequence[Closure]
    events: Sequence[Mapping[str, Field]]
    problem: str = ""
    heads: Mapping[str, str] = field(default_factory=dict[str, str])
    unseen: Mapping[str, Sequence[Charge]] = field(default_factory=dict[str, Sequence[Charge]])
    """The most that machines nobody told of have cost beside `charges`, by cluster."""


def render(snapshot: Snapshot) -> str:
    """Several lines, each ended."""
    parts = [_running(snapshot), _spend(snapshot), _closed(snapshot), _events(snapshot)]
    parts += [_head(cluster, words) for cluster, words in sorted(snapshot.heads.items())]
    return "\n".join("".join(f"{line}\n" for line in part) for part in parts if part)


def cluster_of(instance: Instance) -> str:
    """The cluster's name, or a dash for an instance that is not of ours."""
    return instance.tags.get(CLUSTER) or "-"


def _running(snapshot: Snapshot) -> list[str]:
    if snapshot.instances is None:
        return [f"instances unknown: {snapshot.problem}"] if snapshot.problem else []
    present = [i for i in snapshot.instances if not i.status.is_gone]
    if not present:
        return ["0 instances, $0.00/h"]
    billing = [i for i in present if i.status is not Status.TERMINATING]
    prices = [i.instance_type.price_cents_per_hour for i in billing]
    known = [price for price in prices if price is not None]
    unknown = (
        f" and {len(prices) - len(known)} of unknown price" if len(known) < len(prices) else ""
    )
    count = f"{len(billing)} instance{'' if len(billing) == 1 else 's'}"
    ordered = sorted(present, key=lambda i: (cluster_of(i), kind_of(i), i.id))
    rows = [_instance_row(i, snapshot.now_s) for i in ordered]
    return [f"{count}, {dollars(sum(known))}/h{unknown}", *_table(rows)]


def _instance_row(instance: Instance, now_s: float) -> tuple[str, ...]:
    price = instance.instance_type.price_cents_per_hour
    began_s = created_s(instance)
    return (
        cluster_of(instance),
        instance.tags.get(USER_NODE_TYPE) or "-",
        instance.instance_type.name,
        instance.region,
        instance.status.value,
        "?" if price is None else f"{dollars(price)}/h",
        "?" if began_s is None else duration(now_s - began_s),
        instance.ip or "-",
        instance.id,
    )


def _spend(snapshot: Snapshot) -> list[str]:
    lines = [snapshot.problem] if snapshot.problem and snapshot.instances is not None else []
    for cluster, charges in sorted(snapshot.charges.items()):
        burn = burn_cents_per_hour(charges)
        cost = cost_in_words(charges, snapshot.unseen.get(cluster, ()), snapshot.now_s)
        rate = "" if not burn else f", {dollars(burn)}/h now"
        lines.append(f"{cluster}: as far as this machine knows, this run has cost {cost}{rate}")
    return lines


def _closed(snapshot: Snapshot) -> list[str]:
    now_s = snapshot.now_s
    closed = [c for c in snapshot.closures if reopens_s(c, advertised=False) > now_s]
    if not closed:
        return []
    rows = [
        (
            c.place.instance_type,
            c.place.region,
            c.reason.value,
            f"refused {c.strikes} time{'' if c.strikes == 1 else 's'}",
            f"next try in {duration(reopens_s(c, advertised=False) - now_s)}",
        )
        for c in sorted(closed, key=lambda c: reopens_s(c, advertised=False))
    ]
    return ["not tried now:", *_table(rows)]


def _events(snapshot: Snapshot) -> list[str]:
    if not snapshot.events:
        return []
    return ["last events:", *(f"  {event_line(event)}" for event in snapshot.events)]


def _head(cluster: str, words: str) -> list[str]:
    return [f"on the head of {cluster}:", *(f"  {line}".rstrip() for line in words.splitlines())]


def event_line(event: Mapping[str, Field]) -> str:
    """One event in local time, with its fields in the order in which they were written."""
    at = event.get("time")
    clock = (
        "?" if not isinstance(at, int | float) else time.strftime("%H:%M:%S", time.localtime(at))
    )
    fields = " ".join(f"{k}={_value(v)}" for k, v in event.items() if k not in ("time", "event"))
    return f"{clock}  {event.get('event', '?')}  {fields}".rstrip()


def _value(value: Field) -> str:
    text = str(value)
    return f'"{text}"' if " " in text else text


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`."""
    seconds = max(0.0, seconds)
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
