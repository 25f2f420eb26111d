"""`raylambda status`: what runs and costs, which offerings are unavailable, what happened.

From this machine's records, Lambda's list as it is now, and the heads, which are asked over ssh.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from autoscaler.domain import Charge, Instance, Status
from autoscaler.errors import AutoscalerError, StateError, UnavailableError
from autoscaler.events import Field
from autoscaler.instances.unavailable_offerings import UnavailableOffering, retry_s
from autoscaler.lambda_cloud.credentials import on_head
from autoscaler.lambda_cloud.tags import CLUSTER, KIND_HEAD, USER_NODE_TYPE, created_s, kind_of
from autoscaler.money.budget import burn_cents_per_hour, cost_in_words, dollars
from autoscaler.session import Session, open_session
from autoscaler.ssh.ask_head import ask_head


@dataclass(frozen=True)
class StatusReport:
    """What is known at one moment. `instances` is None when Lambda was not asked. `problem` says
    why it could not be, or why this machine's own records are missing. `charges` are of the
    present run, by cluster; `heads` are the words of clusters' heads."""

    now_s: float
    instances: Sequence[Instance] | None
    charges: Mapping[str, Sequence[Charge]]
    unavailable: Sequence[UnavailableOffering]
    events: Sequence[Mapping[str, Field]]
    problem: str = ""
    heads: Mapping[str, str] = field(default_factory=dict[str, str])
    unreported: Mapping[str, Sequence[Charge]] = field(default_factory=dict[str, Sequence[Charge]])
    """Upper bounds of what lost heads' workers have cost, by cluster; not in `charges`."""


def run(cluster: str | None, last_events: int, *, local: bool, as_json: bool) -> int:
    """Prints this machine's records, Lambda's list as it is now, and what the heads say.

    Returns 1 if one of the first two could not be read. Raises AuthError, ConfigError.
    """
    report = look(open_session(), cluster, last_events, local=local)
    if not local and not on_head():
        report = replace(report, heads=_ask_heads(report, last_events, as_json))
    sys.stdout.write(json.dumps(_as_json(report)) + "\n" if as_json else render(report))
    return 1 if report.problem else 0


def _ask_heads(report: StatusReport, last_events: int, as_json: bool) -> dict[str, str]:
    """By cluster: what its head says, or why it was not asked."""
    words = [f"--events={last_events}", *(["--json"] if as_json else [])]
    said: dict[str, str] = {}
    for instance in report.instances or ():
        if kind_of(instance) == KIND_HEAD and instance.status is Status.ACTIVE and instance.ip:
            try:
                said[cluster_of(instance)] = ask_head(instance.ip, words)
            except UnavailableError as error:
                said[cluster_of(instance)] = str(error)
    return said


def look(
    session: Session, cluster: str | None, last_events: int, *, local: bool = False
) -> StatusReport:
    """One list request, none with `local`; whatever it finds, the local state is shown."""
    instances: Sequence[Instance] | None = None
    problem = ""
    try:
        instances = None if local else session.client.list_instances()
    except AutoscalerError as error:
        problem = str(error)
    if cluster is not None and instances is not None:
        instances = [i for i in instances if cluster_of(i) == cluster]
    events = session.events.tail(last_events if cluster is None else 1000)
    if cluster is not None:
        # What concerns all clusters names none.
        events = [e for e in events if e.get("cluster") in (None, cluster)]
    charges: dict[str, list[Charge]] = {}
    unreported: dict[str, list[Charge]] = {}
    unavailable: list[UnavailableOffering] = []
    try:
        for name in session.ledger.clusters():
            if cluster in (None, name):
                charges[name] = session.ledger.charges(name)
                unreported[name] = session.ledger.unreported(name)
        unavailable = session.unavailable_offerings.all()
    except StateError as error:
        problem = problem or str(error)
    return StatusReport(
        session.clock(),
        instances,
        charges,
        unavailable,
        events[len(events) - last_events :] if last_events < len(events) else events,
        problem,
        unreported=unreported,
    )


def render(report: StatusReport) -> str:
    """Several lines, each ended."""
    parts = [_running(report), _spend(report), _unavailable(report), _events(report)]
    parts += [_head(cluster, words) for cluster, words in sorted(report.heads.items())]
    return "\n".join("".join(f"{line}\n" for line in part) for part in parts if part)


def cluster_of(instance: Instance) -> str:
    """The cluster's name, or a dash for an instance that is not of ours."""
    return instance.tags.get(CLUSTER) or "-"


def _running(report: StatusReport) -> list[str]:
    if report.instances is None:
        return [f"instances unknown: {report.problem}"] if report.problem else []
    present = [i for i in report.instances if not i.status.is_gone]
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
    rows = [_instance_row(i, report.now_s) for i in ordered]
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


def _spend(report: StatusReport) -> list[str]:
    lines = [report.problem] if report.problem and report.instances is not None else []
    for cluster, charges in sorted(report.charges.items()):
        burn = burn_cents_per_hour(charges)
        cost = cost_in_words(charges, report.unreported.get(cluster, ()), report.now_s)
        rate = "" if not burn else f", {dollars(burn)}/h now"
        lines.append(f"{cluster}: as far as this machine knows, this run has cost {cost}{rate}")
    return lines


def _unavailable(report: StatusReport) -> list[str]:
    now_s = report.now_s
    waiting = [c for c in report.unavailable if retry_s(c, advertised=False) > now_s]
    if not waiting:
        return []
    rows = [
        (
            c.offering.instance_type,
            c.offering.region,
            c.reason.value,
            f"refused {c.failures} time{'' if c.failures == 1 else 's'}",
            f"next try in {duration(retry_s(c, advertised=False) - now_s)}",
        )
        for c in sorted(waiting, key=lambda c: retry_s(c, advertised=False))
    ]
    return ["not tried now:", *_table(rows)]


def _events(report: StatusReport) -> list[str]:
    if not report.events:
        return []
    return ["last events:", *(f"  {event_line(event)}" for event in report.events)]


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


def _as_json(report: StatusReport) -> dict[str, object]:
    instances = report.instances
    return {
        "now": report.now_s,
        "problem": report.problem or None,
        "instances": None if instances is None else [asdict(i) for i in instances],
        "charges": {name: [asdict(c) for c in cs] for name, cs in report.charges.items()},
        "unreported": {name: [asdict(c) for c in cs] for name, cs in report.unreported.items()},
        "unavailable": [asdict(each) for each in report.unavailable],
        "events": [dict(e) for e in report.events],
        "heads": {name: _parsed(words) for name, words in report.heads.items()},
    }


def _parsed(words: str) -> object:
    """A head's own JSON, or the words in its place."""
    try:
        return json.loads(words)
    except ValueError:
        return {"problem": words}
