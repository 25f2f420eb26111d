"""`raylambda status`: this machine's state, Lambda's list as it is now, what the heads know."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace

from autoscaler.commands.status import Snapshot, cluster_of, render
from autoscaler.domain import Charge, Instance, Status
from autoscaler.errors import AutoscalerError, StateError, UnavailableError
from autoscaler.instances.placement import Closure
from autoscaler.lambda_cloud.credentials import on_head
from autoscaler.lambda_cloud.tags import KIND_HEAD, kind_of
from autoscaler.session import Session, open_session
from autoscaler.ssh.ask_head import ask_head

LAST_EVENTS = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cluster", help="only this cluster")
    parser.add_argument(
        "--events", type=int, default=LAST_EVENTS, help="how many of the last events"
    )
    parser.add_argument(
        "--local", action="store_true", help="only what this machine knows: ask nobody"
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints the status. Raises AuthError and the like; an API that is away is part of it."""
    snapshot = look(open_session(), args.cluster, args.events, local=args.local)
    if not args.local and not on_head():
        snapshot = replace(snapshot, heads=_ask_heads(snapshot, args))
    text = json.dumps(_as_json(snapshot)) + "\n" if args.json else render(snapshot)
    sys.stdout.write(text)
    return 1 if snapshot.problem else 0


def _ask_heads(snapshot: Snapshot, args: argparse.Namespace) -> dict[str, str]:
    """By cluster: what its head says, or why it was not asked."""
    words = [f"--events={args.events}", *(["--json"] if args.json else [])]
    said: dict[str, str] = {}
    for instance in snapshot.instances or ():
        if kind_of(instance) == KIND_HEAD and instance.status is Status.ACTIVE and instance.ip:
            try:
                said[cluster_of(instance)] = ask_head(instance.ip, words)
            except UnavailableError as error:
                said[cluster_of(instance)] = str(error)
    return said


def look(
    session: Session, cluster: str | None, last_events: int, *, local: bool = False
) -> Snapshot:
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
    unseen: dict[str, list[Charge]] = {}
    closures: list[Closure] = []
    try:
        for name in session.ledger.clusters():
            if cluster in (None, name):
                charges[name] = session.ledger.charges(name)
                unseen[name] = session.ledger.unseen(name)
        closures = session.stockouts.all()
    except StateError as error:
        problem = problem or str(error)
    return Snapshot(
        session.clock(),
        instances,
        charges,
        closures,
        events[len(events) - last_events :] if last_events < len(events) else events,
        problem,
        unseen=unseen,
    )


def _as_json(snapshot: Snapshot) -> dict[str, object]:
    instances = snapshot.instances
    return {
        "now": snapshot.now_s,
        "problem": snapshot.problem or None,
        "instances": None if instances is None else [asdict(i) for i in instances],
        "charges": {name: [asdict(c) for c in cs] for name, cs in snapshot.charges.items()},
        "unseen": {name: [asdict(c) for c in cs] for name, cs in snapshot.unseen.items()},
        "closed": [asdict(c) for c in snapshot.closures],
        "events": [dict(e) for e in snapshot.events],
        "heads": {name: _parsed(words) for name, words in snapshot.heads.items()},
    }


def _parsed(words: str) -> object:
    """A head's own JSON, or the words in its place."""
    try:
        return json.loads(words)
    except ValueError:
        return {"problem": words}
