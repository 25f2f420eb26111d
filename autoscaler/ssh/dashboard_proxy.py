"""The owner's way to a cluster's dashboard and job API: a port of this machine's loopback that
adds the cluster's token to the owner's requests.

Ray's own clients send a token only when RAY_AUTH_MODE is set, and a browser asks for it. The
port must not give away what the token protects, so a request gets the token only if

- the process that sent it belongs to the user who opened the port (the kernel knows), and
- no web page made it: its Host is this machine, and a browser's Origin is the port itself.

Any other request goes through as it came, and the cluster refuses it.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

_HOSTS = ("127.0.0.1", "::1")
_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HEAD_MAX_BYTES = 2**16
_CHUNK_BYTES = 2**16
_STATE_ESTABLISHED = "01"
_CLOSING_S = 0.05

Headers = Sequence[tuple[str, str]]


class DashboardProxy:
    """`with DashboardProxy(8265, target_port, token):` serves until the block ends.

    OSError on entry when the port is taken.
    """

    def __init__(self, port: int, target_port: int, token: str) -> None:
        self._port = port
        self._target_port = target_port
        self._token = token

    def __enter__(self) -> Self:
        listening: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listening)), name="dashboard", daemon=True
        )
        self._thread.start()
        listening.result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    async def _serve(self, listening: "Future[None]") -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        servers: list[asyncio.Server] = []
        for host in _HOSTS:
            try:
                servers.append(
                    await asyncio.start_server(
                        self._connect, host, self._port, limit=_HEAD_MAX_BYTES
                    )
                )
            except OSError as error:
                if servers:  # no IPv6 here, or it is another's: names resolve to IPv4 as well
                    continue
                listening.set_exception(error)
                return
        listening.set_result(None)
        await self._stopped.wait()
        # What it is just accepting gets its handler: a server that is closed loses the socket.
        await asyncio.sleep(_CLOSING_S)
        for server in servers:
            server.close()
        await _end_connections()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.IncompleteReadError):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.LimitOverrunError:
                return
            peer_port = int(writer.get_extra_info("peername")[1])
            may = _uid_of(peer_port, self._port) == os.getuid()
            head = rewritten(head, self._token if may else None, self._port)
            there = await asyncio.open_connection("127.0.0.1", self._target_port)
            with contextlib.closing(there[1]):
                there[1].write(head)
                await asyncio.gather(_pass_on(reader, there[1]), _pass_on(there[0], writer))


def rewritten(head: bytes, token: str | None, port: int) -> bytes:
    """A request's head with the token if it may have it, and as the last of its connection.

    One request a connection, so that each head is looked at: a body is passed on unread.
    """
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    headers = [
        (name.strip(), value.strip()) for name, _, value in (x.partition(":") for x in lines)
    ]
    names = {name.lower() for name, _ in headers}
    if "upgrade" not in names:
        headers = [h for h in headers if h[0].lower() not in ("connection", "keep-alive")]
        headers.append(("Connection", "close"))
    if token is not None and "authorization" not in names and _is_own(headers, port):
        headers.append(("Authorization", f"Bearer {token}"))
    return "\r\n".join((first, *(f"{n}: {v}" for n, v in headers), "", "")).encode("latin-1")


def _is_own(headers: Headers, port: int) -> bool:
    """Whether a program, or the dashboard's own page, made the request: no other web page."""
    hosts = [value.lower() for name, value in headers if name.lower() == "host"]
    own = {f"{name}:{port}" for name in _OWN_NAMES}
    if len(hosts) != 1 or hosts[0] not in own:
        return False
    for name, value in headers:
        if name.lower() == "origin" and value.lower().removeprefix("http://") != hosts[0]:
            return False
        if name.lower() == "sec-fetch-site" and value.lower() not in ("same-origin", "none"):
            return False
    return True


def _uid_of(client_port: int, server_port: int) -> int | None:
    """The user who owns the client's end of a connection of this machine's loopback."""
    for table in ("tcp", "tcp6"):
        try:
            rows = Path("/proc/net", table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            _, local, remote, state, _, _, _, uid, *_ = row.split()
            ports = (int(local.rpartition(":")[2], 16), int(remote.rpartition(":")[2], 16))
            if ports == (client_port, server_port) and state == _STATE_ESTABLISHED:
                return int(uid)
    return None


async def _end_connections() -> None:
    """Ends what is still connected, and gives the loop its rounds to close the sockets."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(_CLOSING_S)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the end of what is read, which is passed on too."""
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()
