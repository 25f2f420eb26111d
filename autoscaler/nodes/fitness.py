"""Is a node fit to serve, and what becomes of it and of its place when it is not.

A new machine has to pass its gate before anything runs on it. One that fails it, that cannot be
set up or does not become a node ends, and its (type, region) is left alone for a while.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress

from autoscaler.domain import Status
from autoscaler.errors import AutoscalerError, NotFoundError, StateError, UnavailableError
from autoscaler.events import utc
from autoscaler.instances.unavailable_offerings import Reason
from autoscaler.lambda_cloud.tags import CHECKED, KIND_HEAD, NODE_STATUS
from autoscaler.nodes.listing import Node, NodeList
from autoscaler.session import Session
from autoscaler.ssh.health_check import HealthCheck, own_address

SETUP_TRIES = 3
"""Ray's autoscaler sets a node up as often before it gives the node up."""
SETTING_UP = ("waiting-for-ssh", "syncing-files", "setting-up")
"""Ray's statuses of a node while its updater is at work."""

logger = logging.getLogger(__name__)


class Fitness:
    """Thread-safe. `find` gives a node as last seen, `end` ends nodes and says why."""

    def __init__(
        self,
        cluster: str,
        session: Session,
        nodes: NodeList,
        find: Callable[[str], Node | None],
        end: Callable[[Collection[str], str], None],
        *,
        on_head: bool,
    ) -> None:
        self._cluster = cluster
        self._session = session
        self._nodes = nodes
        self._find = find
        self._end = end
        self._on_head = on_head
        self._failures: Counter[str] = Counter()
        self._unfit: set[str] = set()

    def health_check(self, node_id: str) -> HealthCheck | None:
        """What to check on a node that is being set up; None for one in use, or that has passed.

        Raises UnavailableError while a worker's way to the head cannot be checked.
        """
        node = self._find(node_id)
        local = self._session.tags.of(node_id)
        if node is None or local.get(CHECKED) or local.get(NODE_STATUS) not in SETTING_UP:
            return None
        gpus = node.instance.instance_type.gpus
        if node.kind == KIND_HEAD:
            return HealthCheck(gpus)
        head_ip = self._head_ip(node)
        if head_ip is None:
            raise UnavailableError(f"{node_id}: not checked, for the head has no private address")
        return HealthCheck(gpus, head_ip)

    def _head_ip(self, worker: Node) -> str | None:
        for node in self._nodes.all().values():
            if node.kind == KIND_HEAD and node.instance.private_ip:
                return node.instance.private_ip
        # No list shows it. On the head itself it can be known all the same.
        towards = worker.instance.private_ip
        return own_address(towards) if self._on_head and towards else None

    def report_healthy(self, node_id: str) -> None:
        """The node has passed its gate: its place is proven good."""
        self._session.tags.merge(node_id, {CHECKED: "passed"})
        if node := self._nodes.get(node_id):
            self._session.unavailable_offerings.mark_healthy(node.instance.offering)

    def report_unhealthy(self, node_id: str, reason: str) -> None:
        """Ends the node and keeps away from its place for a while. Idempotent."""
        node = self._nodes.get(node_id)
        if node is None or node_id in self._unfit:  # its termination is sent until it works
            return
        self._unfit.add(node_id)
        offering = node.instance.offering
        now_s = self._session.clock()
        next_try = None
        with suppress(StateError):
            marked = self._session.unavailable_offerings.mark_unavailable(
                offering, Reason.SUSPECT, now_s, advertised=True
            )
            next_try = utc(marked.next_try_s)
        self._session.events.write(
            "node-unfit",
            cluster=self._cluster,
            instance=node_id,
            type=offering.instance_type,
            region=offering.region,
            reason=reason,
            next_try=next_try,
        )
        logger.warning(
            "%s (%s) is unfit and ends: %s; next try there %s",
            node_id,
            offering,
            reason,
            next_try or "unknown",
        )
        self._end([node_id], reason)

    def has_ended(self, node_id: str) -> bool:
        """Whether Lambda says that the node is gone, or on its way out."""
        try:
            return self._session.client.get_instance(node_id).status.is_terminating_or_gone
        except NotFoundError:
            return True
        except AutoscalerError:
            return False

    def setup_succeeded(self, node_id: str) -> None:
        self._failures.pop(node_id, None)

    def setup_failed(self, node: Node) -> None:
        """`node` is as a fresh list shows it: ssh is up before Lambda says that the machine is."""
        instance = node.instance
        self._failures[instance.id] += 1
        failures = self._failures[instance.id]
        self._session.events.write(
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
