"""Ray's autoscaler v2 as its monitor drives it: the real reconciler, scheduler and adapter."""

import copy
from collections.abc import Callable
from typing import Any

from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.instance_manager import InstanceManager
from ray.autoscaler.v2.instance_manager.instance_storage import InstanceStorage
from ray.autoscaler.v2.instance_manager.node_provider import NodeProviderAdapter
from ray.autoscaler.v2.instance_manager.reconciler import Reconciler
from ray.autoscaler.v2.instance_manager.storage import InMemoryStorage
from ray.autoscaler.v2.instance_manager.subscribers.cloud_instance_updater import (
    CloudInstanceUpdater,
)
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import (
    CloudResourceMonitor,
)
from ray.autoscaler.v2.instance_manager.subscribers.threaded_ray_installer import RayInstallError
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler
from ray.core.generated.instance_manager_pb2 import (
    GetInstanceManagerStateRequest,
    Instance,
)

from autoscaler.errors import AutoscalerError
from autoscaler.provider import ProviderError
from tests.reconciling.ray_cluster import RayCluster

Job = Callable[[], None]


class _Executor:
    """In place of a thread pool: what is submitted goes to `accept`."""

    def __init__(self, accept: Callable[[Job], None]) -> None:
        self._accept = accept

    def submit(self, function: Callable[..., None], *args: Any) -> None:
        self._accept(lambda: function(*args))


class _Reader:
    def __init__(self, config: AutoscalingConfig) -> None:
        self._config = config

    def get_cached_autoscaling_config(self) -> AutoscalingConfig:
        return self._config

    def refresh_cached_autoscaling_config(self) -> None:
        pass


class V2Monitor:
    """One life of the monitor's process. `provider` is any node provider of Ray's."""

    def __init__(self, config: dict[str, Any], provider: Any, ray: RayCluster) -> None:
        self._config = AutoscalingConfig(copy.deepcopy(config), skip_content_hash=True)
        self._provider = provider
        self._ray = ray
        self.launches: list[Job] = []
        self.outages = 0
        self._adapter = NodeProviderAdapter(provider, _Reader(self._config))
        self._adapter._main_executor = _Executor(lambda job: job())
        self._adapter._node_launcher_executors = _Executor(self.launches.append)
        self._resources = CloudResourceMonitor()
        self._manager = InstanceManager(
            InstanceStorage("world", InMemoryStorage()),
            [CloudInstanceUpdater(self._adapter), self, self._resources],
        )
        self._scheduler = ResourceDemandScheduler(None)
        self._im_ids: dict[str, str] = {}

    def notify(self, events: Any) -> None:
        """As Ray's installer and stopper, which subscribe to the instance manager."""
        instances = {i.instance_id: i for i in self.instances()}
        for event in events:
            instance = instances.get(event.instance_id)
            if instance is None:
                continue
            if event.new_instance_status == Instance.RAY_INSTALLING:
                self._im_ids[instance.cloud_instance_id] = instance.instance_id
                self._ray.begin_setup(instance.cloud_instance_id, instance.instance_type)
            elif event.new_instance_status == Instance.RAY_STOP_REQUESTED:
                self._ray.drain(instance.cloud_instance_id)

    def instances(self) -> list[Any]:
        reply = self._manager.get_instance_manager_state(GetInstanceManagerStateRequest())
        return list(reply.state.instances)

    def tick(self) -> None:
        """One round. An error of the provider's ends the round, as in Ray's own loop."""
        errors = self._installer_errors()
        self._ray.step()
        try:
            cloud = self._adapter.get_non_terminated()
        except (ProviderError, AutoscalerError):
            self.outages += 1
            return
        Reconciler.reconcile(
            self._manager,
            self._scheduler,
            self._adapter,
            self._resources,
            self._ray.state(),
            cloud,
            self._config,
            cloud_provider_errors=self._adapter.poll_errors(),
            ray_install_errors=errors,
        )

    def _installer_errors(self) -> list[RayInstallError]:
        errors: list[RayInstallError] = []
        for instance_id, went_well in self._ray.finish_setups().items():
            status = "up-to-date" if went_well else "update-failed"
            self._provider.set_node_tags(instance_id, {"ray-node-status": status})
            if not went_well and instance_id in self._im_ids:
                errors.append(RayInstallError(self._im_ids[instance_id], "setup failed"))
        return errors
