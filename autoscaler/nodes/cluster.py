"""One cluster as Ray sees it: its nodes listed, launched, tagged and terminated, without Ray.

`provider.py` turns Ray's calls into these; `head.py` adds what only the laptop does. With each
new list the cluster is maintained (`maintenance.py`).
"""

import logging
import os
import threading
from collections.abc import Collection, Mapping
from contextlib import suppress

from autoscaler.bootstrap.config import NodeConfig, ProviderConfig, Section, parse_node_config
from autoscaler.bootstrap.preflight import resolve_ssh_key
from autoscaler.domain import Instance, InstanceType, Status
from autoscaler.errors import AccountError, AuthError, AutoscalerError, ConfigError, StateError
from autoscaler.events import WATCHING
from autoscaler.instances.acquire import Choice
from autoscaler.instances.launcher import Launched, NodeSpec
from autoscaler.instances.teardown import TeardownReport
from autoscaler.lambda_cloud.tags import (
    KIND_HEAD,
    NODE_KIND,
    NODE_STATUS,
    STATUS_UP_TO_DATE,
    STATUS_UPDATE_FAILED,
    USER_NODE_TYPE,
    launch_tags,
    mutable_tags,
)
from autoscaler.money.spend_sync import SpendSync
from autoscaler.nodes.listing import FRESH_S, Node, NodeList
from autoscaler.nodes.maintenance import BudgetEnforcer, HealthMonitor
from autoscaler.session import Session

CREATE_S = 120.0
"""Time for one call; Ray asks for at most five nodes, and a launch slot comes every 12.5 s."""
HOLD_S = 20.0
"""Shortest time that a failing call takes: Ray repeats it every five seconds, without end."""

logger = logging.getLogger(__name__)


class Cluster:
    """Thread-safe."""

    def __init__(self, name: str, config: ProviderConfig, session: Session) -> None:
        self.name = name
        self.config = config
        self.session = session
        reconciler = session.reconciler(name)
        self.nodes = NodeList(
            name,
            session.client,
            reconciler,
            session.ledger,
            session.tags,
            session.events,
            session.clock,
        )
        self.spend_sync = session.spend_sync(name)
        self._budget = BudgetEnforcer(
            name,
            config.caps,
            self.nodes,
            self.terminate,
            reconciler,
            session.journal,
            session.catalog,
            session.events,
            session.clock,
        )
        self.health = HealthMonitor(
            name,
            self.nodes,
            self.find,
            self.terminate,
            session.client,
            session.tags,
            session.unavailable_offerings,
            session.events,
            session.clock,
            on_head=config.on_head,
        )
        self._ssh_key_name: str | None = config.ssh_key_name if config.on_head else None
        self._lock = threading.Lock()
        self._failed_terminations: dict[str, str] = {}

    # Listing

    def visible(self, filters: Mapping[str, str]) -> list[str]:
        """Nodes for Ray's autoscaler. Raises AutoscalerError when nothing can be known."""
        with suppress(StateError):  # no launch without it, but every end
            self.spend_sync.import_rows(self.config.former_charges)
        if self.nodes.refresh():
            self._maintain()
        return [
            node_id
            for node_id, node in self.nodes.all().items()
            if node.tags is not None and _matches(node.tags, filters)
        ]

    def for_teardown(self, filters: Mapping[str, str]) -> list[str]:
        """Everything that bills, as of a fresh list: quarantined and unhealthy machines too."""
        self.nodes.refresh()
        return [
            node_id
            for node_id, node in self.nodes.all().items()
            if _matches(node.tags or {NODE_KIND: node.kind}, filters)
        ]

    def find(self, node_id: str, *, wait: bool = False) -> Node | None:
        """A node as last seen, None once it is gone; with `wait`, after a fresh look.

        Never raises for an API that is away: the last look stands.
        """
        node = self.nodes.get(node_id)
        if node is None or wait:
            try:
                self.nodes.refresh(FRESH_S)
            except AutoscalerError as error:
                logger.debug("no fresh look at %s: %s", node_id, error)
            node = self.nodes.get(node_id)
        return node

    def spend_sync_of(self, node_id: str) -> SpendSync | None:
        """For what a head reports to this machine; None for other nodes, and on the head."""
        node = self.find(node_id)
        is_other_head = node is not None and node.kind == KIND_HEAD and not self.config.on_head
        return self.spend_sync if is_other_head else None

    # Launching

    def create_workers(self, section: Section, tags: Mapping[str, str], count: int) -> list[str]:
        """Launches workers one after the other within CREATE_S; returns their ids.

        Not idempotent. Unless there are `count`, raises why, no sooner than after HOLD_S; those
        that were made live on, and the next list shows them. Ray takes a call that lasts over
        ten minutes for lost.
        """
        started_s = self.session.clock()
        made: list[str] = []
        try:
            node = parse_node_config(section, tags.get(USER_NODE_TYPE, ""))
            choice = Choice(node.instance_types, self._regions(node), self.config.caps)
            self.spend_sync.import_rows(self.config.former_charges)
            spec = self.spec(node, tags)
            deadline_s = self.session.clock() + CREATE_S
            while len(made) < count:
                made.append(self.launch(spec, choice, deadline_s))
        except AutoscalerError as error:
            self.report_failure(tags, len(made), count, error)
            left_s = started_s + HOLD_S - self.session.clock()
            if left_s > 0:
                self.session.sleep(left_s)
            raise
        return made

    def spec(self, node: NodeConfig, tags: Mapping[str, str]) -> NodeSpec:
        """Registers the cluster's SSH key with Lambda at the first use."""
        return NodeSpec(
            cluster=self.name,
            ray_tags=dict(tags),
            ssh_key_name=self.ssh_key_name(),
            image_family=node.image,
            file_system_names=tuple(dict.fromkeys((*self.config.filesystems, *node.filesystems))),
        )

    def ssh_key_name(self) -> str:
        if self._ssh_key_name is None:
            self._ssh_key_name = resolve_ssh_key(self.config, self.session.client)
        return self._ssh_key_name

    def launch(self, spec: NodeSpec, choice: Choice, deadline_s: float) -> str:
        """One more node, which the list shows from now on; its id. See `Acquirer.acquire`."""
        launched = self.session.acquirer.acquire(spec, choice, deadline_s)
        instance = self._as_listed(spec, launched)
        # Every tag of the launch is kept here too: Lambda may lose one.
        self.session.tags.merge(instance.id, {**instance.tags, **spec.ray_tags})
        self.nodes.add(instance)
        return instance.id

    def report_failure(
        self, tags: Mapping[str, str], made: int, asked: int, error: AutoscalerError
    ) -> None:
        """For `raylambda status` and Ray's log; the same failure again is not repeated."""
        node_type = tags.get(USER_NODE_TYPE, "")
        fields: Mapping[str, str | int | None] = {
            "cluster": self.name,
            "node_type": node_type,
            "asked": asked,
            "made": made,
            "code": error.code,
            # A refused key is one fact, whichever request has met it.
            "error": None if isinstance(error, AuthError | AccountError) else str(error),
        }
        topic = f"create {self.name} {node_type}"
        if self.session.events.write_change(topic, "create-failed", **fields):
            logger.warning("%s: %d of %d nodes: %s", node_type, made, asked, error)

    def _regions(self, node: NodeConfig) -> tuple[str, ...]:
        regions = self.config.regions_for(node)
        if not regions:
            raise ConfigError(
                f"node_config.regions: the cluster is in {', '.join(self.config.regions)}, "
                f"this node type may only be in {', '.join(node.regions)}"
            )
        return regions

    def _as_listed(self, spec: NodeSpec, launched: Launched) -> Instance:
        """The machine as a list will show it: lists lag behind launches."""
        name, region = launched.offering.instance_type, launched.offering.region
        known = self.session.catalog.known(name)
        return Instance(
            id=launched.instance_id,
            status=Status.BOOTING,
            region=region,
            instance_type=known or InstanceType(name),
            tags=launch_tags(spec.ray_tags, spec.cluster, launched.nonce, launched.created_s),
        )

    # Tagging and terminating

    def set_tags(self, node_id: str, tags: Mapping[str, str]) -> None:
        """Merges the tags that change; Ray's verdict on a node's setup is acted upon."""
        self.nodes.merge_tags(node_id, mutable_tags(tags))
        status = tags.get(NODE_STATUS)
        if status == STATUS_UPDATE_FAILED:
            if node := self.find(node_id, wait=True):
                self.health.setup_failed(node)
        elif status == STATUS_UP_TO_DATE:
            self.health.setup_succeeded(node_id)

    def terminate(self, node_ids: Collection[str], why: str = "Ray asked") -> None:
        """Idempotent; does not raise. What fails is tried again with the next list."""
        ended = self.session.terminator.terminate(node_ids, why)
        self.nodes.drop(ended.gone)
        with self._lock:
            for node_id in ended.gone:
                self._failed_terminations.pop(node_id, None)
            self._failed_terminations |= dict.fromkeys(ended.failed, why)

    def end(self) -> TeardownReport:
        """Terminates all of the cluster and verifies it. See `Teardown.terminate_all`."""
        done = self.session.teardown.terminate_all(self.name)
        self.nodes.drop(done.ended)
        return done

    def _maintain(self) -> None:
        """With each new list. Ray asks for none of it."""
        with self._lock:
            failed = dict(self._failed_terminations)
        for why in dict.fromkeys(failed.values()):
            self.terminate([id_ for id_, reason in failed.items() if reason == why], why)
        if not self.config.on_head:
            return
        topic = f"watch {self.name}"
        self.session.events.write_change(topic, WATCHING, cluster=self.name, pid=os.getpid())
        if not self._budget.enforce():
            self.health.terminate_stuck()


def _matches(tags: Mapping[str, str], filters: Mapping[str, str]) -> bool:
    return all(tags.get(key) == value for key, value in filters.items())
