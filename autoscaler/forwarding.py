"""Ports that Ray's commands forward from a head: the dashboard's with the owner's token."""

import socket
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager

from autoscaler.bootstrap.files import cluster_files
from autoscaler.ssh.dashboard_proxy import DashboardProxy

DASHBOARD_PORT = 8265
"""Where the head's dashboard and job API listen, on its loopback."""

Forward = tuple[int, int]
"""(port of this machine, port of the head's loopback)."""


@contextmanager
def with_token(forwards: Sequence[Forward] | None, cluster: str) -> Generator[list[Forward] | None]:
    """What ssh is to forward while the block runs, so that the dashboard gets the token.

    In place of the wished port ssh gets a free one, and the proxy listens on the wished one.
    Other ports, and a cluster whose token this machine does not have, are forwarded as asked.
    OSError when a wished port is taken.
    """
    if forwards is None:
        yield None
        return
    token_file = cluster_files(cluster).ray_token
    token = token_file.read_text(encoding="utf-8").strip() if token_file.exists() else ""
    with ExitStack() as proxies:
        plain: list[Forward] = []
        for local, remote in forwards:
            if remote == DASHBOARD_PORT and token:
                hidden = _free_port()
                proxies.enter_context(DashboardProxy(local, hidden, token))
                plain.append((hidden, remote))
            else:
                plain.append((local, remote))
        yield plain


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
