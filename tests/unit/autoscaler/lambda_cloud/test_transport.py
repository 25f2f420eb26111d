"""What a broken network proves about a launch, over real sockets."""

import socket
import threading

import pytest

from autoscaler.domain import ApiKey, LaunchRequest
from autoscaler.errors import UnavailableError
from autoscaler.lambda_cloud.client import LambdaClient
from autoscaler.lambda_cloud.transport import Transport
from tests.unit.autoscaler.lambda_rig import NO_EVENTS, SECRET, NoRateLimit

LAUNCH = LaunchRequest("us-west-1", "gpu_1x_a10", "k", "ray-demo-w-0", {"ray-node-type": "worker"})


@pytest.fixture
def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def over_network(port: int) -> LambdaClient:
    transport = Transport(
        ApiKey(SECRET),
        f"http://127.0.0.1:{port}/api/v1",
        NoRateLimit(),
        NO_EVENTS,
        sleep=lambda s: None,
    )
    return LambdaClient(transport)


def test_a_refused_connection_proves_that_nothing_was_sent(closed_port):
    with pytest.raises(UnavailableError, match="cannot be reached") as caught:
        over_network(closed_port).launch(LAUNCH)
    assert caught.value.not_executed


def test_a_connection_that_breaks_after_sending_proves_nothing():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def read_and_hang_up() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)

        thread = threading.Thread(target=read_and_hang_up)
        thread.start()
        with pytest.raises(UnavailableError) as caught:
            over_network(server.getsockname()[1]).launch(LAUNCH)
        thread.join()
    assert not caught.value.not_executed


def test_a_proxy_of_the_environment_is_used(monkeypatch, closed_port):
    """The environment is read once, not with every request."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        monkeypatch.setenv("http_proxy", address)
        monkeypatch.setenv("no_proxy", "")
        asked: list[bytes] = []

        def answer() -> None:
            connection, _ = proxy.accept()
            with connection:
                asked.append(connection.recv(1000))
                connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"data": []}')

        thread = threading.Thread(target=answer)
        thread.start()
        transport = Transport(
            ApiKey(SECRET), "http://10.0.0.1/api/v1", NoRateLimit(), NO_EVENTS, sleep=lambda s: None
        )
        monkeypatch.delenv("http_proxy")
        transport.send("POST", "/x", body={}, repeatable=False)
        thread.join()
    assert asked[0].startswith(b"POST http://10.0.0.1/api/v1/x ")
