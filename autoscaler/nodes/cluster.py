"""One cluster as Ray's node provider needs it, without Ray."""

import logging
import os
from collections.abc import Collection, Mapping
from contextlib import suppress

from autoscaler.bootstrap import preflight
from autoscaler.bootstrap.config import (
    NodeConfig,
    ProviderConfig,
    Section,
    parse_node_config,
)
from autoscaler.bootstrap.preflight import head_regions, resolve_ssh_key
from autoscaler.errors import (
    AmbiguousLaunchError,
    AutoscalerError,
    BudgetError,
    ConfigError,
    ConflictError,
    StateError,
)
from autoscaler.events import WATCHING
from autoscaler.instances.acquire import Choice
from autoscaler.instances.launcher import NodeSpec
from autoscaler.instances.teardown import Teardown
from autoscaler.lambda_cloud.tags import (
    KIND_HEAD,
    NODE_KIND,
    NODE_STATUS,
    STATUS_UP_TO_DATE,
    STATUS_UPDATE_FAILED,
    USER_NODE_TYPE,
    mutable_tags,
)
from autoscaler.money.handover import Handover, Row
from autoscaler.nodes.creation import Creator
from autoscaler.nodes.fitness import Fitness
from autoscaler.nodes.housekeeping import Housekeeper
from autoscaler.nodes.listing import FRESH_S, Node, NodeList
from autoscaler.session import Session

logger = logging.getLogger(__name__)


class Cluster:
    """Thread-safe."""

    def __init__(self, name: str, config: ProviderConfig, session: Session) -> None:
        self.name = name
        self.config = config
        self.session = session
        self.nodes = NodeList(name, session)
        self._creator = Creator(session, self.nodes)
        self._housekeeper = Housekeeper(name, session, self.nodes, config.caps)
        self.fitness = Fitness(
            name, session, self.nodes, self.find, self.terminate, on_head=config.on_head
        )
        self._handover = Handover(
            name,
            config.caps,
            config.former_charges,
            session.books,
            session.ledger,
            session.clock,
        )
        self._ssh_key_name: str | None = config.ssh_key_name if config.on_head else None
        self._is_checked = False

    # What there is

    def visible(self, filters: Mapping[str, str]) -> list[str]:
        """Nodes for Ray's autoscaler. Raises AutoscalerError when nothing can be known."""
        with suppress(StateError):  # no launch without it, but every end
            self._handover.from_laptop()
        if self.nodes.refresh():
            self._keep_house()
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

    # What is made

    def create_workers(self, section: Section, tags: Mapping[str, str], count: int) -> list[str]:
        """The new ids. Unless there are `count`, raises why, no sooner than `creation.HOLD_S`."""
        with self._creator.held(self.name, tags, count) as made:
            node = parse_node_config(section, tags.get(USER_NODE_TYPE, ""))
            regions = self.config.regions_for(node)
            if not regions:
                raise ConfigError(
                    f"node_config.regions: the cluster is in {', '.join(self.config.regions)}, "
                    f"this node type may only be in {', '.join(node.regions)}"
                )
            choice = Choice(node.instance_types, regions, self.config.caps)
            self._handover.from_laptop()
            self._creator.create_workers(self._spec(node, tags), choice, count, made)
        return made

    def create_head(self, section: Section, tags: Mapping[str, str]) -> str:
        """Checks everything against Lambda first. Raises AutoscalerError; nothing is left then.

        After a launch without a clear answer that takes minutes: without a head there is no
        other process that would end a machine that comes late. TeardownUnverifiedError where
        Lambda does not let it be known.
        """
        node = parse_node_config(section, tags.get(USER_NODE_TYPE, ""))
        self.nodes.refresh(0.0)
        if running := [id_ for id_, n in self.nodes.all().items() if n.kind == KIND_HEAD]:
            raise ConflictError(f"cluster {self.name!r} has a head already: {running[0]}")
        regions = self.check()
        ranked = head_regions(
            self.config,
            node,
            regions,
            self.session.catalog.current(),
            self.session.unavailable_offerings.all(),
        )
        spec = self._spec(node, tags)
        try:
            return self._creator.create_head(spec, node.instance_types, ranked, self.config.caps)
        except AmbiguousLaunchError as error:
            logger.warning("%s; waiting until that is sure", error)
            self.session.cluster_end.end_late_arrivals(self.name)
            raise
        except BudgetError as error:
            raise self._handover.explained(error) from None

    def check(self) -> tuple[str, ...]:
        """Compares the YAML with what Lambda has; returns the regions that serve."""
        self._is_checked = True
        return preflight.check(self.config, self.session.client, self.session.catalog.current())

    def head_bootstrap_parameters(self) -> tuple[str, str, list[Row]]:
        """(region, name of the SSH key, what the run has cost before) for the head's own
        configuration.

        A cluster that is up already is checked here, before its head learns of the new YAML.
        """
        self.nodes.refresh()
        heads = [n for n in self.nodes.all().values() if n.kind == KIND_HEAD]
        if not heads:
            raise ConflictError(f"cluster {self.name!r} has no head")
        if not self._is_checked:
            self.check()
        region, head_id = heads[0].instance.region, heads[0].instance.id
        return region, self._key_name(), self._handover.to_head(head_id)

    def handover_from(self, node_id: str) -> Handover | None:
        """For what a head tells this machine; None for other nodes, and on the head itself."""
        node = self.find(node_id)
        is_other_head = node is not None and node.kind == KIND_HEAD and not self.config.on_head
        return self._handover if is_other_head else None

    def _spec(self, node: NodeConfig, tags: Mapping[str, str]) -> NodeSpec:
        return NodeSpec(
            cluster=self.name,
            ray_tags=dict(tags),
            ssh_key_name=self._key_name(),
            image_family=node.image,
            file_system_names=tuple(dict.fromkeys((*self.config.filesystems, *node.filesystems))),
        )

    def _key_name(self) -> str:
        if self._ssh_key_name is None:
            self._ssh_key_name = resolve_ssh_key(self.config, self.session.client)
        return self._ssh_key_name

    # What is ended

    def terminate(self, node_ids: Collection[str], why: str = "Ray asked") -> None:
        """Idempotent; does not raise. What fails is tried again with the next list."""
        self._housekeeper.end(node_ids, why)

    def end(self) -> Teardown:
        """Ends everything of the cluster and verifies it. See `ClusterEnd.terminate_all`."""
        done = self.session.cluster_end.terminate_all(self.name)
        self.nodes.drop(done.ended)
        return done

    def _keep_house(self) -> None:
        self._housekeeper.end_again()
        if not self.config.on_head:
            return
        self.session.events.write_change(
            f"watch {self.name}", WATCHING, cluster=self.name, pid=os.getpid()
        )
        if self._housekeeper.enforce_budget():
            return
        for node_id, why in self._housekeeper.unfit().items():
            self.fitness.report_unhealthy(node_id, why)

    # What becomes of a node

    def set_tags(self, node_id: str, tags: Mapping[str, str]) -> None:
        """Merges the tags that change; Ray's verdict on a node's setup is acted upon."""
        self.nodes.merge_tags(node_id, mutable_tags(tags))
        status = tags.get(NODE_STATUS)
        if status == STATUS_UPDATE_FAILED:
            if node := self.find(node_id, wait=True):
                self.fitness.setup_failed(node)
        elif status == STATUS_UP_TO_DATE:
            self.fitness.setup_succeeded(node_id)


def _matches(tags: Mapping[str, str], filters: Mapping[str, str]) -> bool:
    return all(tags.get(key) == value for key, value in filters.items())
