"""What nobody asks for and must be done: the head looks after its cluster with every list.

Ray gives up a node that boots too long only after an hour, and never one it cannot see; a
termination that failed is to be sent again; and when the money is gone, everything ends.
"""

import threading
from collections.abc import Collection
from dataclasses import replace

from autoscaler.domain import Charge, Instance, Status
from autoscaler.errors import StateError
from autoscaler.lambda_cloud.tags import (
    CHECKED,
    KIND_HEAD,
    NODE_STATUS,
    STATUS_UP_TO_DATE,
    created_s,
)
from autoscaler.money.budget import Caps, dollars, seconds_left
from autoscaler.nodes.listing import Node, NodeList
from autoscaler.session import Session

BOOT_S = 1200.0
MULTI_GPU_BOOT_S = 2100.0
"""Boots of 3 to 5 minutes are usual, of 10 to 15 with several GPUs."""
ADDRESS_S = 180.0
"""An active machine without a private address by then is in a region that has none."""
QUARANTINE_S = 300.0
"""Tags may come late; a worker without them after this is of no use to anyone."""
BUDGET_MARGIN_S = 30.0
"""The spend is looked at every few seconds, and a termination takes some to be sent."""


class Housekeeper:
    """Thread-safe."""

    def __init__(self, cluster: str, session: Session, nodes: NodeList, caps: Caps) -> None:
        self._cluster = cluster
        self._session = session
        self._nodes = nodes
        self._caps = caps
        self._lock = threading.Lock()
        self._since_s: dict[tuple[str, str], float] = {}
        self._to_end: dict[str, str] = {}
        self._last_charges: list[Charge] | None = None
        self._spent_since_s: float | None = None

    def end(self, node_ids: Collection[str], why: str) -> None:
        """Ends nodes; what fails is tried again with the next list. Does not raise."""
        ended = self._session.terminator.terminate(node_ids, why)
        self._nodes.drop(ended.gone)
        with self._lock:
            for node_id in ended.gone:
                self._to_end.pop(node_id, None)
            self._to_end |= dict.fromkeys(ended.failed, why)

    def end_again(self) -> None:
        """Sends the terminations that have failed so far."""
        with self._lock:
            pending = dict(self._to_end)
        for why in dict.fromkeys(pending.values()):
            self.end([id_ for id_, reason in pending.items() if reason == why], why)

    def unfit(self) -> dict[str, str]:
        """Workers that are not becoming nodes, with the reason."""
        now_s = self._session.clock()
        nodes = self._nodes.all()
        self._forget(nodes.keys())
        found: dict[str, str] = {}
        for node_id, node in nodes.items():
            if node.kind != KIND_HEAD and (why := self._problem(node, now_s)):
                found[node_id] = why
        return found

    def _problem(self, node: Node, now_s: float) -> str | None:
        instance = node.instance
        if node.tags is None:
            if self._lasts(instance, "quarantined", now_s) > QUARANTINE_S:
                return "its tags are incomplete"
            return None
        if instance.status is Status.ACTIVE:
            if instance.private_ip is None and self._lasts(instance, "active", now_s) > ADDRESS_S:
                return f"no private address after {ADDRESS_S:.0f} s"
            return None
        limit_s = MULTI_GPU_BOOT_S if instance.instance_type.gpus > 1 else BOOT_S
        launched_s = created_s(instance) or now_s
        has_run = CHECKED in node.tags or node.tags.get(NODE_STATUS) == STATUS_UP_TO_DATE
        # A node that was one: what ails it now, Ray judges by its own heartbeats.
        if not has_run and now_s - launched_s > limit_s:
            return f"still {instance.status} {limit_s / 60:.0f} minutes after its launch"
        return None

    def _lasts(self, instance: Instance, what: str, now_s: float) -> float:
        with self._lock:
            return now_s - self._since_s.setdefault((instance.id, what), now_s)

    def _forget(self, alive: Collection[str]) -> None:
        with self._lock:
            self._since_s = {key: at for key, at in self._since_s.items() if key[0] in alive}

    def enforce_budget(self) -> bool:
        """Ends the whole cluster before its total cap is passed.

        A machine whose price nobody knows counts as the dearest there is. The head stays until
        its workers are on their way out, and no launch is left that may yet make one: nobody
        else would end them.
        """
        charges = self._charges()
        dearest = self._session.catalog.dearest_cents_per_hour()
        priced = [
            c if c.price_cents_per_hour is not None else replace(c, price_cents_per_hour=dearest)
            for c in charges
        ]
        left_s = seconds_left(self._caps, priced, self._session.clock())
        if left_s is None or left_s > BUDGET_MARGIN_S:
            self._spent_since_s = None
            return False
        self._spent_since_s = self._spent_since_s or self._session.clock()
        cap = dollars(self._caps.max_total_cents or 0)
        guess = (
            f", a machine of unknown price counted at {dollars(dearest)}/h"
            if priced != charges
            else ""
        )
        self._session.events.write_change(
            f"budget-end {self._cluster}",
            "budget-exhausted",
            cluster=self._cluster,
            reason=f"max_total_cents ({cap}) would be passed within {BUDGET_MARGIN_S:.0f} s{guess}",
        )
        why = f"max_total_cents ({cap}) is spent{guess}"
        self.end(self._of_kind(head=False), why)
        coming = self._session.cluster_end.unsettled(self._cluster, self._spent_since_s)
        if not self._of_kind(head=False) and not coming:
            self.end(self._of_kind(head=True), why)
        return True

    def _charges(self) -> list[Charge]:
        """With the state file gone: as last read, in which what runs goes on; nothing is
        launched meanwhile. A process that has never read it knows what its nodes cost."""
        try:
            self._last_charges = self._session.journal.commitments(self._cluster)
        except StateError:
            if self._last_charges is None:
                now_s = self._session.clock()
                listed = [node.instance for node in self._nodes.all().values()]
                prices = [(i.instance_type.price_cents_per_hour, created_s(i)) for i in listed]
                return [Charge(p, now_s if at_s is None else at_s) for p, at_s in prices]
        return self._last_charges

    def _of_kind(self, *, head: bool) -> list[str]:
        nodes = self._nodes.all()
        return sorted(id_ for id_, node in nodes.items() if (node.kind == KIND_HEAD) is head)
