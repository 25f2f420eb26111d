"""Ray's node provider for Lambda Cloud: `provider.module: autoscaler.provider.LambdaNodeProvider`.

Thin: everything is done by `nodes.cluster`, `nodes.head`, `bootstrap.bootstrap` and `ssh.runner`;
here Ray's calls become theirs, and their errors become Ray's. `nodes.contract` says what Ray may
count on in each operation.
"""

import sys
import threading
from collections.abc import Callable, Mapping
from functools import cached_property, wraps
from pathlib import Path
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import click
from ray.autoscaler._private.cli_logger import cli_logger
from ray.autoscaler._private.command_runner import DockerCommandRunner
from ray.autoscaler.command_runner import CommandRunnerInterface
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.node_provider import NodeProvider

from autoscaler.bootstrap import bootstrap
from autoscaler.bootstrap.config import PUBLIC_KEY, parse_provider
from autoscaler.bootstrap.files import cluster_files
from autoscaler.domain import Status
from autoscaler.errors import AutoscalerError
from autoscaler.lambda_cloud.tags import KIND_HEAD, NODE_KIND
from autoscaler.money.budget import cost_in_words
from autoscaler.nodes.cluster import Cluster
from autoscaler.nodes.contract import NodeProviderContract
from autoscaler.nodes.head import Head
from autoscaler.nodes.ray_logs import filter_ray_logs
from autoscaler.session import Session, open_session
from autoscaler.ssh.runner import CheckedSSHCommandRunner

P = ParamSpec("P")
R = TypeVar("R")
MAX_CATEGORY_CHARS = 20
"""Ray shows a launch failure's category in a narrow column."""

filter_ray_logs()


class ProviderError(click.ClickException):
    """An error of ours on its way through Ray: one line and our exit code in Ray's commands."""

    def __init__(self, error: AutoscalerError) -> None:
        super().__init__(str(error))
        # Click reads it from the instance, though it declares it for the class.
        self.exit_code = error.exit_code  # pyright: ignore[reportAttributeAccessIssue]


def translate_errors(method: Callable[P, R]) -> Callable[P, R]:
    """For an operation that Ray calls: raises ProviderError for an error of ours."""

    @wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except AutoscalerError as error:
            raise ProviderError(error) from error

    return guarded


class LambdaNodeProvider(NodeProvider):
    """Thread-safe. The constructor reads nothing and sends nothing. See `NodeProviderContract`."""

    def __init__(
        self,
        provider_config: dict[str, Any],
        cluster_name: str,
        session: Session | None = None,
    ) -> None:
        """`session` is for those who bring their own; else this machine's is opened when needed."""
        super().__init__(provider_config, cluster_name)
        self._session = session
        self._opened: Cluster | None = None
        self._opening = threading.Lock()

    @property
    def cluster(self) -> Cluster:
        """Opened at the first use. Raises AutoscalerError; the next use tries again.

        On the laptop it writes the cluster's files anew: Ray may have taken the configuration
        that names them from a cache that is older than the last `ray down`, or the last key.
        """
        with self._opening:
            if self._opened is None:
                config = parse_provider(self.provider_config)
                session = self._session or open_session()
                if self._session is None and PUBLIC_KEY in self.provider_config:
                    bootstrap.write_files(self.cluster_name, session.key, session.url)
                self._opened = Cluster(self.cluster_name, config, session)
            return self._opened

    @cached_property
    def _head(self) -> Head:
        """The laptop's."""
        return Head(self.cluster)

    # Reading

    @translate_errors
    def non_terminated_nodes(self, tag_filters: Mapping[str, str]) -> list[str]:
        return self.cluster.visible(tag_filters)

    @translate_errors
    def nodes_for_teardown(self, tag_filters: Mapping[str, str]) -> list[str]:
        return self.cluster.for_teardown(tag_filters)

    @translate_errors
    def is_running(self, node_id: str) -> bool:
        node = self.cluster.find(node_id)
        if node is None:
            return False
        instance = node.instance
        return instance.status is Status.ACTIVE and bool(instance.ip and instance.private_ip)

    @translate_errors
    def is_terminated(self, node_id: str) -> bool:
        return self.cluster.find(node_id, wait=True) is None

    @translate_errors
    def node_tags(self, node_id: str) -> dict[str, str]:
        node = self.cluster.nodes.recall(node_id) or self.cluster.find(node_id)
        return dict(node.tags or node.instance.tags) if node else {}

    @translate_errors
    def external_ip(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, node_id: str
    ) -> str | None:
        # None while unknown, as Ray's callers expect, whatever it declares.
        node = self.cluster.nodes.recall(node_id)
        if node is None or node.instance.ip is None:
            node = self.cluster.find(node_id, wait=True)
        return node.instance.ip if node else None

    @translate_errors
    def internal_ip(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, node_id: str
    ) -> str | None:
        node = self.cluster.nodes.recall(node_id)
        if node is None or node.instance.private_ip is None:
            node = self.cluster.find(node_id, wait=True)
        return node.instance.private_ip if node else None

    @translate_errors
    def safe_to_scale(self) -> bool:
        return not self.cluster.nodes.is_stale

    # Changing

    def create_node(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int
    ) -> dict[str, Any]:
        if tags.get(NODE_KIND) == KIND_HEAD:
            return {self._create_head(node_config, tags): {}}
        try:
            made = self.cluster.create_workers(node_config, tags, count)
        except AutoscalerError as error:
            category = type(error).__name__.removesuffix("Error")[:MAX_CATEGORY_CHARS]
            raise NodeLaunchException(category, str(error), None) from error
        return {node_id: {} for node_id in made}

    def create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> dict[str, Any]:
        return self.create_node(node_config, tags, count)

    @translate_errors
    def _create_head(self, node_config: dict[str, Any], tags: dict[str, str]) -> str:
        return self._head.create(node_config, tags)

    @translate_errors
    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        self.cluster.set_tags(node_id, tags)

    @translate_errors
    def terminate_node(self, node_id: str) -> None:
        self.cluster.terminate([node_id])

    @translate_errors
    def terminate_nodes(self, node_ids: list[str]) -> None:
        self.cluster.terminate(node_ids)

    def report_unhealthy(self, node_id: str, reason: str) -> None:
        self.cluster.health.report_unhealthy(node_id, reason)

    def cleanup_cluster_resources(self) -> None:
        try:
            done = self.cluster.end()
        except AutoscalerError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(error.exit_code)
        cost = cost_in_words(done.charges, done.unreported, self.cluster.session.clock())
        cli_logger.success(
            "0 instances of {} are running, verified in {:.0f} s. This run cost {}.",
            self.cluster_name,
            done.took_s,
            cost,
        )
        cluster_files(self.cluster_name).remove()
        if cache := self.provider_config.get("_config_cache_path"):
            Path(cache).unlink(missing_ok=True)

    # Commands on nodes

    def get_command_runner(
        self,
        log_prefix: str,
        node_id: str,
        auth_config: dict[str, Any],
        cluster_name: str,
        process_runner: ModuleType,
        use_internal_ip: bool,
        docker_config: dict[str, Any] | None = None,
    ) -> CommandRunnerInterface:
        common = {
            "log_prefix": log_prefix,
            "node_id": node_id,
            "provider": self,
            "auth_config": auth_config,
            "cluster_name": cluster_name,
            "process_runner": process_runner,
            "use_internal_ip": use_internal_ip,
        }
        ssh = CheckedSSHCommandRunner(self.cluster.health, self.cluster.spend_sync_of, **common)
        if docker_config and docker_config.get("container_name"):
            docker = DockerCommandRunner(docker_config, **common)
            # The health check is the machine's, not the container's.
            docker.ssh_command_runner = ssh
            return docker
        return ssh

    # The YAML

    @staticmethod
    def fillout_available_node_types_resources(cluster_config: dict[str, Any]) -> dict[str, Any]:
        return bootstrap.fill_resources(cluster_config)

    @staticmethod
    @translate_errors
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        return bootstrap.bootstrap(cluster_config)

    @translate_errors
    def prepare_for_head_node(self, cluster_config: dict[str, Any]) -> dict[str, Any]:
        region, ssh_key_name, former = self._head.bootstrap_parameters()
        return bootstrap.prepare_for_head(cluster_config, region, ssh_key_name, former)


CONTRACT: type[NodeProviderContract] = LambdaNodeProvider
"""The type checker compares the two."""
