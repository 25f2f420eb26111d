"""Which forwarded ports get the cluster's token."""

import socket
from pathlib import Path

import pytest

from autoscaler.bootstrap.files import cluster_files, write_secret
from autoscaler.ssh.runner import DASHBOARD_PORT, with_token


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


def test_only_the_dashboards_port_is_ours_while_it_is_forwarded() -> None:
    write_secret(cluster_files("mine").ray_token, "0123")
    wished = free_port()
    with with_token([(wished, DASHBOARD_PORT), (7, 6006)], "mine") as forwards:
        assert forwards is not None
        (hidden, remote), other = forwards
        assert remote == DASHBOARD_PORT and hidden != wished
        assert other == (7, 6006)
        socket.create_connection(("127.0.0.1", wished), 5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", wished), 5)


def test_nothing_to_forward_and_no_token() -> None:
    with with_token(None, "mine") as forwards:
        assert forwards is None
    with with_token([(5, DASHBOARD_PORT)], "mine") as forwards:
        assert forwards == [(5, DASHBOARD_PORT)]


def test_a_taken_port_is_an_error() -> None:
    write_secret(cluster_files("mine").ray_token, "0123")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            with with_token([(port, DASHBOARD_PORT)], "mine"):
                pass
