"""Maintenance: terminates unhealthy nodes, and everything before the budget is exceeded.

A new machine has to pass a health check before anything runs on it. One that fails it, that
cannot be set up or does not become a node is terminated, and its offering is unavailable for a
while: Ray gives up a node that boots too long only after an hour, and never one it cannot see.
Nor does Ray know of a budget: before the run's total cap is passed, everything is terminated.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace

from autoscaler.domain import Charge, Instance, Status
from autoscaler.errors import AutoscalerError, NotFoundError, StateError, UnavailableError
from autoscaler.events import EventLog, utc
from autoscaler.instances.journal import Journal
from autoscaler.instances.reconcile import Reconciler
from autoscaler.instances.unavailable_offerings import Reason, UnavailableOfferings
from autoscaler.lambda_cloud.catalog import CatalogSource
from autoscaler.lambda_cloud.client import LambdaClient
from autoscaler.lambda_cloud.tags import (
    CHECKED,
    KIND_HEAD,
    NODE_STATUS,
    STATUS_UP_TO_DATE,
    created_s,
)
from autoscaler.money.budget import Caps, dollars, seconds_left
from autoscaler.nodes.listing import Node, NodeList
from autoscaler.ssh.health_check import HealthCheck, own_address
from autoscaler.state import TagStore

SETUP_TRIES = 3
"""Ray's autoscaler sets a node up as often before it gives the node up."""
SETTING_UP = ("waiting-for-ssh", "syncing-files", "setting-up")
"""Ray's statuses of a node while its updater is at work."""
BOOT_S = 1200.0
MULTI_GPU_BOOT_S = 2100.0
"""Boots of 3 to 5 minutes are usual, of 10 to 15 with several GPUs."""
ADDRESS_S = 180.0
"""An active machine without a private address by then is in a region that has none."""
QUARANTINE_S = 300.0
"""Tags may come late; a worker without them after this is of no use to anyone."""
BUDGET_MARGIN_S = 30.0
"""The spend is looked at every few seconds, and a termination takes some to be sent."""

logger = logging.getLogger(__name__)


class HealthMonitor:
    """Thread-safe. `find` gives a node as last seen, `terminate` ends nodes and says why."""

    def __init__(
        self,
        cluster: str,
        nodes: NodeList,
        find: Callable[[str], Node | None],
        terminate: Callable[[Collection[str], str], None],
        client: LambdaClient,
        tags: TagStore,
        unavailable: UnavailableOfferings,
        events: EventLog,
        clock: Callable[[], float],
        *,
        on_head: bool,
    ) -> None:
        self._cluster = cluster
        self._nodes = nodes
        self._find = find
        self._terminate = terminate
        self._client = client
        self._tags = tags
        self._unavailable = unavailable
        self._events = events
        self._clock = clock
        self._on_head = on_head
        self._setup_failures: Counter[str] = Counter()
        self._unhealthy: set[str] = set()
        self._lock = threading.Lock()
        self._since_s: dict[tuple[str, str], float] = {}

    def health_check(self, node_id: str) -> HealthCheck | None:
        """What to check on a node that is being set up; None for one in use, or that has passed.

        Raises UnavailableError while a worker's way to the head cannot be checked.
        """
        node = self._find(node_id)
        local = self._tags.of(node_id)
        if node is None or local.get(CHECKED) or local.get(NODE_STATUS) not in SETTING_UP:
            return None
        gpus = node.instance.instance_type.gpus
        if node.kind == KIND_HEAD:
            return HealthCheck(gpus)
        head_ip = self._head_ip(node)
        if head_ip is None:
            raise UnavailableError(
                f"{node_id}: health check not possible yet: the head has no private address"
            )
        return HealthCheck(gpus, head_ip)

    def _head_ip(self, worker: Node) -> str | None:
        for node in self._nodes.all().values():
            if node.kind == KIND_HEAD and node.instance.private_ip:
                return node.instance.private_ip
        # No list shows it. On the head itself it can be known all the same.
        towards = worker.instance.private_ip
        return own_address(towards) if self._on_head and towards else None

    def report_healthy(self, node_id: str) -> None:
        """The node has passed its health check, and its offering is good. Idempotent."""
        self._tags.merge(node_id, {CHECKED: "passed"})
        if node := self._nodes.get(node_id):
            self._unavailable.mark_healthy(node.instance.offering)

    def report_unhealthy(self, node_id: str, reason: str) -> None:
        """Terminates the node; its offering is unavailable for a while. Idempotent."""
        node = self._nodes.get(node_id)
        if node is None or node_id in self._unhealthy:  # its termination is sent until it works
            return
        self._unhealthy.add(node_id)
        offering = node.instance.offering
        until = None
        with suppress(StateError):
            marked = self._unavailable.mark_unavailable(
                offering, Reason.SUSPECT, self._clock(), advertised=True
            )
            until = utc(marked.next_try_s)
        self._events.write(
            "node-unhealthy",
            cluster=self._cluster,
            instance=node_id,
            type=offering.instance_type,
            region=offering.region,
            reason=reason,
            next_try=until,
        )
        logger.warning(
            "terminating unhealthy node %s (%s): %s; offering unavailable until %s",
            node_id,
            offering,
            reason,
            until or "unknown",
        )
        self._terminate([node_id], reason)

    def has_ended(self, node_id: str) -> bool:
        """Whether Lambda says that the node is gone, or on its way out."""
        try:
            return self._client.get_instance(node_id).status.is_terminating_or_gone
        except NotFoundError:
            return True
        except AutoscalerError:
            return False

    def setup_succeeded(self, node_id: str) -> None:
        self._setup_failures.pop(node_id, None)

    def setup_failed(self, node: Node) -> None:
        """`node` is as a fresh list shows it: ssh is up before Lambda says that the machine is."""
        instance = node.instance
        self._setup_failures[instance.id] += 1
        failures = self._setup_failures[instance.id]
        self._events.write(
            "setup-failed",
            cluster=self._cluster,
            instance=instance.id,
            type=instance.instance_type.name,
            region=instance.region,
            tries=failures,
        )
        never_up = instance.status in (Status.BOOTING, Status.UNKNOWN)
        if never_up or (node.kind != KIND_HEAD and failures >= SETUP_TRIES):
            self.report_unhealthy(
                instance.id, "its setup failed" if not never_up else "it never came up"
            )

    def terminate_stuck(self) -> None:
        """Workers that are not becoming nodes are unhealthy."""
        now_s = self._clock()
        nodes = self._nodes.all()
        with self._lock:
            self._since_s = {key: at for key, at in self._since_s.items() if key[0] in nodes}
        for node_id, node in nodes.items():
            if node.kind != KIND_HEAD and (why := self._problem(node, now_s)):
                self.report_unhealthy(node_id, why)

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
        # It was a node: whether it still serves, Ray judges by its own heartbeats.
        if not has_run and now_s - launched_s > limit_s:
            return f"still {instance.status} {limit_s / 60:.0f} minutes after its launch"
        return None

    def _lasts(self, instance: Instance, what: str, now_s: float) -> float:
        with self._lock:
            return now_s - self._since_s.setdefault((instance.id, what), now_s)


class BudgetEnforcer:
    """Ends the cluster before its total cap is passed. `terminate` as of `HealthMonitor`."""

    def __init__(
        self,
        cluster: str,
        caps: Caps,
        nodes: NodeList,
        terminate: Callable[[Collection[str], str], None],
        reconciler: Reconciler,
        journal: Journal,
        catalog: CatalogSource,
        events: EventLog,
        clock: Callable[[], float],
    ) -> None:
        self._cluster = cluster
        self._caps = caps
        self._nodes = nodes
        self._terminate = terminate
        self._reconciler = reconciler
        self._journal = journal
        self._catalog = catalog
        self._events = events
        self._clock = clock
        self._last_charges: list[Charge] | None = None
        self._spent_since_s: float | None = None

    def enforce(self) -> bool:
        """Whether the cluster has to end now; then it is terminated. Idempotent.

        A machine of unknown price counts as the most expensive type. The head stays until its
        workers are terminating and no launch is left that may yet make one: no other process
        would terminate them.
        """
        charges = self._charges()
        dearest = self._catalog.dearest_cents_per_hour()
        priced = [
            c if c.price_cents_per_hour is not None else replace(c, price_cents_per_hour=dearest)
            for c in charges
        ]
        left_s = seconds_left(self._caps, priced, self._clock())
        if left_s is None or left_s > BUDGET_MARGIN_S:
            self._spent_since_s = None
            return False
        self._spent_since_s = self._spent_since_s or self._clock()
        cap = dollars(self._caps.max_total_cents or 0)
        guess = f", a machine of unknown price counted at {dollars(dearest)}/h"
        guess = guess if priced != charges else ""
        self._events.write_change(
            f"budget-end {self._cluster}",
            "budget-exhausted",
            cluster=self._cluster,
            reason=f"max_total_cents ({cap}) would be passed within {BUDGET_MARGIN_S:.0f} s{guess}",
        )
        why = f"max_total_cents ({cap}) is spent{guess}"
        self._terminate(self._of_kind(head=False), why)
        coming = self._reconciler.unsettled(self._spent_since_s)
        if not self._of_kind(head=False) and not coming:
            self._terminate(self._of_kind(head=True), why)
        return True

    def _charges(self) -> list[Charge]:
        """With the state file gone: as last read, in which what runs goes on; nothing is
        launched meanwhile. A process that has never read it knows what its nodes cost."""
        try:
            self._last_charges = self._journal.commitments(self._cluster)
        except StateError:
            if self._last_charges is None:
                now_s = self._clock()
                listed = [node.instance for node in self._nodes.all().values()]
                prices = [(i.instance_type.price_cents_per_hour, created_s(i)) for i in listed]
                return [Charge(p, now_s if at_s is None else at_s) for p, at_s in prices]
        return self._last_charges

    def _of_kind(self, *, head: bool) -> list[str]:
        nodes = self._nodes.all()
        return sorted(id_ for id_, node in nodes.items() if (node.kind == KIND_HEAD) is head)
