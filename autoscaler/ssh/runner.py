"""Ray's ssh, with a health check first on a new node, and a shutdown that ends the bill."""

import logging
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import click
from ray.autoscaler._private.cli_logger import cli_logger
from ray.autoscaler._private.command_runner import SSHCommandRunner
from ray.autoscaler._private.subprocess_output_util import ProcessRunnerError

from autoscaler.bootstrap.files import cluster_files
from autoscaler.errors import AutoscalerError
from autoscaler.money.spend_sync import SpendSync
from autoscaler.ssh.health_check import HealthCheck, read_verdict

DASHBOARD_PORT = 8265
"""Where the head's dashboard and job API listen, on its loopback."""
SHUTDOWN = "sudo shutdown -h now"
"""What Ray ends a machine with. Lambda goes on billing a machine that is shut down."""
TEARDOWN = "ray teardown ~/ray_bootstrap_config.yaml --yes --workers-only; "
"""Before it Ray ends the workers, with a command that Ray no longer has."""
RAYS_STOP = re.compile(r"(?<![\w-])ray stop(?=[)'\" ]*$)")
"""The end of a command that stops Ray on a head: what comes behind is the quotes of a container."""
REPORT = '"$(dirname "$(command -v ray)")/python" -m autoscaler.cli charges'
END_CLUSTER = '"$(dirname "$(command -v ray)")/python" -m autoscaler.cli end-cluster'
PROBE = "uptime"
"""Ray's own first command: it asks whether ssh is up."""

logger = logging.getLogger(__name__)


class NodeHealth(Protocol):
    def health_check(self, node_id: str) -> HealthCheck | None:
        """Raises AutoscalerError while it cannot be said what to check."""
        ...

    def report_healthy(self, node_id: str) -> None: ...

    def report_unhealthy(self, node_id: str, reason: str) -> None: ...

    def has_ended(self, node_id: str) -> bool: ...


class UnhealthyNodeError(click.ClickException):
    """The node is unhealthy. Ray's updater shows `cmd`, `returncode` and `stderr`, no traceback."""

    cmd = "check of GPUs and network"
    returncode = 1

    def __init__(self, reason: str) -> None:
        super().__init__(f"the node is unhealthy and was terminated: {reason}")
        self.stderr = reason


class CheckedSSHCommandRunner(SSHCommandRunner):
    """Checks the health of a node that is being set up before anything else; of others never.

    `spend_sync_of` gives what imports a head's report of its costs, None for other nodes.
    """

    def __init__(
        self,
        health: NodeHealth,
        spend_sync_of: Callable[[str], SpendSync | None],
        **ray_arguments: Any,
    ) -> None:
        super().__init__(**ray_arguments)
        self._health = health
        self._spend_sync_of = spend_sync_of
        self._node = str(ray_arguments["node_id"])
        self._cluster = str(ray_arguments["cluster_name"])
        self._is_checked = False

    def run(self, cmd: str | None = None, *args: Any, **options: Any) -> Any:
        if cmd != PROBE:
            self._check_health()
        if options.pop("shutdown_after_run", False):
            cmd = f"{cmd}; {SHUTDOWN}"
        if cmd:
            cmd = cmd.replace(TEARDOWN, "").replace(SHUTDOWN, END_CLUSTER)
        for line in dashboard_help(self._cluster, options.get("port_forward") or ()):
            cli_logger.print("{}", line)
        try:
            result = super().run(cmd, *args, **options)
            if cmd and RAYS_STOP.search(cmd):
                self._import_report(RAYS_STOP.sub(lambda _: REPORT, cmd))
            return result
        except click.ClickException:
            # The head took the connection along; whether it has ended, Lambda knows.
            if not (cmd and END_CLUSTER in cmd and self._health.has_ended(self._node)):
                raise
        cli_logger.success("The cluster has ended; `ray down` verifies it and shows the cost.")
        return None

    def _import_report(self, command: str) -> None:
        """Best effort: a head that does not report counts for what its caps allowed it."""
        spend_sync = self._spend_sync_of(self._node)
        if spend_sync is None:
            return
        try:
            output = cast(bytes, super().run(command, with_output=True))
            spend_sync.import_report(self._node, output.decode(errors="replace"))
        except (click.ClickException, ProcessRunnerError, AutoscalerError) as error:
            logger.warning(
                "could not get the cost of the head's workers, so its caps count instead: %s", error
            )

    def run_rsync_up(self, source: str, target: str, options: Any = None) -> None:
        self._check_health()
        super().run_rsync_up(source, target, options=options)

    def _check_health(self) -> None:
        if self._is_checked:
            return
        try:
            check = self._health.health_check(self._node)
            problem = self._ask(check) if check else None
        except AutoscalerError as error:
            raise click.ClickException(str(error)) from None
        if check is not None:
            if problem is not None:
                self._health.report_unhealthy(self._node, problem)
                raise UnhealthyNodeError(problem)
            self._health.report_healthy(self._node)
        self._is_checked = True

    def _ask(self, check: HealthCheck) -> str | None:
        # Bytes, whatever Ray declares.
        output = cast(bytes, super().run(check.command(), with_output=True))
        return read_verdict(output.decode(errors="replace"))


def dashboard_help(cluster: str, forwards: Sequence[tuple[int, int]]) -> list[str]:
    """What the owner needs at a forwarded dashboard; `forwards` are (local, remote) ports.

    Empty where the dashboard is not among them, or this machine does not have the token.
    """
    token_file = cluster_files(cluster).ray_token
    local = next((local for local, remote in forwards if remote == DASHBOARD_PORT), None)
    if local is None or not token_file.exists():
        return []
    path = shlex.quote(str(token_file))
    return [
        f"Job API: `ray job submit --address http://localhost:{local} ...` in a shell with",
        f"  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={path}",
        f"Dashboard: http://localhost:{local} asks for the token once; paste what this prints:",
        f"  cat {path}",
    ]
