"""Ray's autoscaler v1 as its monitor drives it: the real StandardAutoscaler and launcher."""

import copy
import queue
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock, patch

from ray.autoscaler._private import autoscaler as v1
from ray.autoscaler._private.load_metrics import LoadMetrics
from ray.autoscaler._private.node_launcher import BaseNodeLauncher
from ray.autoscaler._private.util import prepare_config

from autoscaler.errors import AutoscalerError
from autoscaler.provider import ProviderError
from tests.reconciling.ray_cluster import GPU_NODE, HEAD_NODE, RayCluster

Job = Callable[[], None]


class V1Monitor:
    """One life of the monitor's process. `provider` is any node provider of Ray's.

    Ray's own setup threads are off; the setups are played by `ray_cluster`.
    """

    def __init__(self, config: dict[str, Any], provider: Any, ray: RayCluster) -> None:
        prepared = prepare_config(copy.deepcopy(config))
        prepared["provider"] |= {"disable_node_updaters": True}
        self._provider = provider
        self._ray = ray
        self._load = LoadMetrics()
        self.launches: list[Job] = []
        self.outages = 0
        self._set_up: set[str] = set()
        with (
            patch.object(v1, "_get_node_provider", lambda *_: provider),
            patch.object(v1.NodeLauncher, "start", lambda self: None),
        ):
            self._autoscaler = v1.StandardAutoscaler(
                lambda: copy.deepcopy(prepared),
                self._load,
                MagicMock(),
                update_interval_s=0,
                prom_metrics=MagicMock(),
            )
        self._launcher = BaseNodeLauncher(
            provider,
            self._autoscaler.pending_launches,
            self._autoscaler.event_summarizer,
            self._autoscaler.node_provider_availability_tracker,
            prom_metrics=MagicMock(),
            node_types=self._autoscaler.available_node_types,
        )

    def tick(self) -> None:
        """One round. An error of the provider's ends the round, as in Ray's own loop."""
        try:
            self._finish_setups()
            self._ray.step()
            self._beat()
            self._autoscaler._update()
            self._begin_setups()
        except (ProviderError, AutoscalerError):
            self.outages += 1
        self._take_launches()

    def _take_launches(self) -> None:
        while True:
            try:
                config, count, node_type = self._autoscaler.launch_queue.get_nowait()
            except queue.Empty:
                return
            self.launches.append(
                lambda c=config, n=count, t=node_type: self._launcher.launch_node(c, n, t)
            )

    def _finish_setups(self) -> None:
        for instance_id, went_well in self._ray.finish_setups().items():
            status = "up-to-date" if went_well else "update-failed"
            self._provider.set_node_tags(instance_id, {"ray-node-status": status})
            if not went_well:
                self._provider.terminate_node(instance_id)

    def _begin_setups(self) -> None:
        for node_id in self._autoscaler.non_terminated_nodes.worker_ids:
            tags = self._provider.node_tags(node_id)
            fresh = tags["ray-node-status"] == "uninitialized" and node_id not in self._set_up
            if fresh and self._provider.is_running(node_id):
                self._set_up.add(node_id)
                self._provider.set_node_tags(node_id, {"ray-node-status": "setting-up"})
                self._ray.begin_setup(node_id, tags["ray-user-node-type"])

    def _beat(self) -> None:
        """What the raylets report."""
        waiting = [{"GPU": 1.0}] * self._ray.pending
        for node in self._ray.running:
            if node.silent_since_s is None and (ip := self._provider.internal_ip(node.instance_id)):
                idle_s = self._ray.idle_s(node)
                free = GPU_NODE if node.idle_since_s is not None else {}
                self._load.update(ip, node.node_id, GPU_NODE, dict(free), idle_s, waiting)
        if head_ip := self._provider.internal_ip(self._ray.head_id):
            self._load.update(head_ip, b"h" * 28, HEAD_NODE, dict(HEAD_NODE), 0.0, waiting)
