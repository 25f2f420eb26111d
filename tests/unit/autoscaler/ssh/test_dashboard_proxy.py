"""Who gets the cluster's token on the owner's port, and that everything passes through."""

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import aiohttp
import pytest
import requests
from aiohttp import web

from autoscaler.ssh import dashboard_proxy
from autoscaler.ssh.dashboard_proxy import DashboardProxy, rewritten

TOKEN = "0123456789abcdef"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture
def dashboard() -> Iterator[int]:
    """A server that tells the token it saw, echoes bodies, and talks by websocket."""

    async def tell(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade"):
            talk = web.WebSocketResponse()
            await talk.prepare(request)
            await talk.send_str(request.headers.get("Authorization", "none"))
            await talk.send_str((await talk.receive_str())[::-1])
            await talk.close()
            return talk
        body = await request.read()
        return web.json_response(
            {"authorization": request.headers.get("Authorization"), "size": len(body)}
        )

    ready: Future[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", tell)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        stopped = asyncio.Event()
        ready.set_result((runner.addresses[0][1], asyncio.get_running_loop(), stopped))
        await stopped.wait()
        await runner.cleanup()
        await asyncio.sleep(0.05)  # the loop's rounds in which closed sockets are let go

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    port, loop, stopped = ready.result()
    yield port
    loop.call_soon_threadsafe(stopped.set)
    thread.join()


@pytest.fixture
def proxy(dashboard: int) -> Iterator[int]:
    port = free_port()
    with DashboardProxy(port, dashboard, TOKEN):
        yield port


def test_the_owners_requests_get_the_token(proxy: int) -> None:
    with requests.Session() as session:  # keeps connections where it may
        for host in ("localhost", "127.0.0.1"):
            seen = session.get(f"http://{host}:{proxy}/api/version", timeout=10).json()
            assert seen["authorization"] == f"Bearer {TOKEN}"


def test_bodies_pass_whole(proxy: int) -> None:
    reply = requests.put(f"http://127.0.0.1:{proxy}/p", data=b"x" * 5_000_000, timeout=30)
    assert reply.json() == {"authorization": f"Bearer {TOKEN}", "size": 5_000_000}


def test_websockets_pass(proxy: int) -> None:
    async def talk() -> list[str]:
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(f"http://127.0.0.1:{proxy}/logs") as socket:
                told = await socket.receive_str()
                await socket.send_str("abc")
                return [told, await socket.receive_str()]

    assert asyncio.run(talk()) == [f"Bearer {TOKEN}", "cba"]


def test_another_users_requests_do_not(proxy: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard_proxy, "_uid_of", lambda *ports: os.getuid() + 1)
    seen = requests.get(f"http://127.0.0.1:{proxy}/", timeout=10).json()
    assert seen["authorization"] is None


def test_the_kernel_knows_whose_a_connection_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            client_port = client.getsockname()[1]
            assert dashboard_proxy._uid_of(client_port, port) == os.getuid()
            assert dashboard_proxy._uid_of(client_port, port + 1) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:8265"},
        {"Host": "localhost"},
        {"Host": "localhost:8265", "Origin": "https://evil.example"},
        {"Host": "localhost:8265", "Origin": "null"},
        {"Host": "localhost:8265", "Origin": "http://localhost:3000"},
        {"Host": "localhost:8265", "Sec-Fetch-Site": "cross-site"},
        {},
    ],
)
def test_web_pages_get_nothing(headers: dict[str, str]) -> None:
    assert b"Authorization" not in rewritten(head(headers), TOKEN, 8265)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost:8265"},
        {"HOST": "127.0.0.1:8265", "origin": "http://127.0.0.1:8265"},
        {"Host": "[::1]:8265", "Sec-Fetch-Site": "same-origin"},
    ],
)
def test_programs_and_the_dashboards_own_page_get_it(headers: dict[str, str]) -> None:
    assert f"\r\nAuthorization: Bearer {TOKEN}\r\n".encode() in rewritten(
        head(headers), TOKEN, 8265
    )


def test_a_token_that_is_there_stays() -> None:
    own = head({"Host": "localhost:8265", "Authorization": "Bearer other"})
    assert rewritten(own, TOKEN, 8265).count(b"Authorization") == 1


def test_each_request_is_the_last_of_its_connection() -> None:
    kept = rewritten(head({"Host": "localhost:8265", "Connection": "keep-alive"}), None, 8265)
    assert kept == b"GET / HTTP/1.1\r\nHost: localhost:8265\r\nConnection: close\r\n\r\n"


def head(headers: dict[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"GET / HTTP/1.1\r\n{lines}\r\n".encode()


def test_a_taken_port_is_an_error(proxy: int) -> None:
    with pytest.raises(OSError, match="in use"):
        with DashboardProxy(proxy, 1, TOKEN):
            pass
