"""The head as the laptop brings it up: checked against Lambda, launched, and configured."""

import logging
from collections.abc import Mapping

from autoscaler.bootstrap import preflight
from autoscaler.bootstrap.config import Section, parse_node_config
from autoscaler.errors import AmbiguousLaunchError, BudgetError, CapacityError, ConflictError
from autoscaler.instances.acquire import Choice
from autoscaler.instances.launcher import NodeSpec
from autoscaler.lambda_cloud.tags import KIND_HEAD, USER_NODE_TYPE
from autoscaler.money.spend_sync import Row
from autoscaler.nodes.cluster import Cluster

HEAD_S = 300.0
"""Time for the head, whose regions are tried one after the other."""

logger = logging.getLogger(__name__)


class Head:
    """Of one cluster; `ray up` and its like are its only users."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._is_checked = False

    def create(self, section: Section, tags: Mapping[str, str]) -> str:
        """The head's id. Checks everything against Lambda first; not idempotent.

        Raises AutoscalerError, and then nothing is left: ConflictError where there is a head.
        After a launch with an unknown outcome that takes minutes: without a head there is no
        other process that would terminate an instance that appears late.
        TeardownUnverifiedError where Lambda does not let it be known.
        """
        cluster, session = self._cluster, self._cluster.session
        node = parse_node_config(section, tags.get(USER_NODE_TYPE, ""))
        cluster.nodes.refresh(0.0)
        if running := [id_ for id_, n in cluster.nodes.all().items() if n.kind == KIND_HEAD]:
            raise ConflictError(f"cluster {cluster.name!r} has a head already: {running[0]}")
        regions = preflight.head_regions(
            cluster.config,
            node,
            self._check(),
            session.catalog.current(),
            session.unavailable_offerings.all(),
        )
        spec = cluster.spec(node, tags)
        try:
            return self._launch(spec, node.instance_types, regions)
        except AmbiguousLaunchError as error:
            logger.warning("%s; waiting until its outcome is known", error)
            session.teardown.terminate_late_arrivals(cluster.name)
            raise
        except BudgetError as error:
            raise cluster.spend_sync.explain(error) from None

    def bootstrap_parameters(self) -> tuple[str, str, list[Row]]:
        """(region, name of the SSH key, what the run has cost before) for the head's own
        configuration. Idempotent. Raises ConflictError without a head, and AutoscalerError.

        A cluster that is up already is checked here, before its head learns of the new YAML.
        """
        cluster = self._cluster
        cluster.nodes.refresh()
        heads = [node for node in cluster.nodes.all().values() if node.kind == KIND_HEAD]
        if not heads:
            raise ConflictError(f"cluster {cluster.name!r} has no head")
        if not self._is_checked:
            self._check()
        head = heads[0].instance
        rows = cluster.spend_sync.export_for_head(head.id, cluster.config.caps)
        return head.region, cluster.ssh_key_name(), rows

    def _check(self) -> tuple[str, ...]:
        """The YAML against what Lambda has; returns the regions that serve."""
        self._is_checked = True
        session = self._cluster.session
        return preflight.check(self._cluster.config, session.client, session.catalog.current())

    def _launch(self, spec: NodeSpec, instance_types: tuple[str, ...], regions: list[str]) -> str:
        """Tries each region in full before the next."""
        cluster = self._cluster
        deadline_s = cluster.session.clock() + HEAD_S
        refusal = CapacityError("no region is left to try")
        for region in regions:
            choice = Choice(instance_types, (region,), cluster.config.caps)
            try:
                return cluster.launch(spec, choice, deadline_s)
            except CapacityError as error:
                refusal = error
                cluster.report_failure(spec.ray_tags, 0, 1, error)
        raise refusal
