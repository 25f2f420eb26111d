"""A node provider as most are written: what `provider_faults` compares ours with.

It follows the logic of Ray's provider for AWS on Lambda's API: a launch is tried five times in
a row, over the places in turn, whatever the error; a node that was launched is what the next
list shows; every list is believed; a termination that fails raises. It keeps no state, no
pace, no budget, and asks for one type only, since that is what a node type names there.
"""

from typing import Any

from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.node_provider import NodeProvider

from autoscaler.domain import Instance, Lane, LaunchRequest, Status
from autoscaler.errors import AutoscalerError
from autoscaler.lambda_cloud.client import LambdaClient
from autoscaler.lambda_cloud.transport import Transport
from autoscaler.session import Session
from autoscaler.simulator import InProcessAdapter, Simulation

TRIES = 5
CLUSTER = "ray-cluster-name"


class _NoPace:
    def wait(self, lane: Lane, deadline_s: float | None = None) -> None:
        pass

    def back_off(self, lane: Lane, delay_s: float | None) -> float:
        return 0.0


class PlainProvider(NodeProvider):
    def __init__(
        self, section: dict[str, Any], cluster: str, session: Session, simulation: Simulation
    ) -> None:
        super().__init__(section, cluster)
        self._regions: list[str] = section["regions"]
        self._client = LambdaClient(
            Transport(
                session.key,
                session.url,
                _NoPace(),
                session.events,
                sleep=session.sleep,
                adapter=InProcessAdapter(simulation),
            )
        )
        self._cache: dict[str, Instance] = {}
        self._changed: dict[str, dict[str, str]] = {}

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        self._cache = {
            instance.id: instance
            for instance in self._client.list_instances()
            if instance.tags.get(CLUSTER) == self.cluster_name
            and not instance.status.is_terminating_or_gone
        }
        return [
            node_id
            for node_id in self._cache
            if tag_filters.items() <= self.node_tags(node_id).items()
        ]

    def _node(self, node_id: str) -> Instance:
        if node_id not in self._cache:
            self._cache[node_id] = self._client.get_instance(node_id)
        return self._cache[node_id]

    def is_running(self, node_id: str) -> bool:
        return self._node(node_id).status is Status.ACTIVE

    def is_terminated(self, node_id: str) -> bool:
        return self._node(node_id).status.is_terminating_or_gone

    def node_tags(self, node_id: str) -> dict[str, str]:
        return {**self._node(node_id).tags, **self._changed.get(node_id, {})}

    def external_ip(self, node_id: str) -> str | None:
        if self._node(node_id).ip is None:
            self.non_terminated_nodes({})
        return self._node(node_id).ip

    def internal_ip(self, node_id: str) -> str | None:
        if self._node(node_id).private_ip is None:
            self.non_terminated_nodes({})
        return self._node(node_id).private_ip

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        self._changed.setdefault(node_id, {}).update(tags)

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> None:
        for _ in range(count):
            self._launch(node_config["instance_types"][0], tags)

    def _launch(self, instance_type: str, tags: dict[str, str]) -> None:
        for attempt in range(TRIES):
            request = LaunchRequest(
                region=self._regions[attempt % len(self._regions)],
                instance_type=instance_type,
                ssh_key_name="sim-key",
                name=tags["ray-node-name"],
                tags={**tags, CLUSTER: self.cluster_name},
            )
            try:
                self._changed[self._client.launch(request)] = dict(tags)
                return
            except AutoscalerError as error:
                if attempt == TRIES - 1:
                    raise NodeLaunchException(error.code or "", str(error), None) from error

    def terminate_node(self, node_id: str) -> None:
        self.terminate_nodes([node_id])

    def terminate_nodes(self, node_ids: list[str]) -> None:
        self._client.terminate(node_ids)
        for node_id in node_ids:
            self._cache.pop(node_id, None)
