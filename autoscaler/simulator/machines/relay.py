"""A TCP relay: what machines cannot route to (this host's loopback, or beyond) behind an address
that they can."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

_CHUNK_BYTES = 2**16

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Reach = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[Streams]]
"""Opens the far side of a connection, whose first bytes it may read and answer. OSError closes
the connection."""


class Relay:
    """`with Relay("10.1.2.1", 9000):` forwards connections to that address to the same port of
    127.0.0.1, or to what `reach` opens. Port 0 takes any free one, which is in `port` then.
    OSError on entry when the port is in use."""

    def __init__(self, host: str, port: int, reach: Reach | None = None) -> None:
        self._host = host
        self.port = port
        self._reach = reach or self._loopback

    def __enter__(self) -> "Relay":
        listening: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listening)), name="relay", daemon=True
        )
        self._thread.start()
        listening.result()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    async def _serve(self, listening: "Future[None]") -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        try:
            server = await asyncio.start_server(self._connect, self._host, self.port)
        except OSError as error:
            listening.set_exception(error)
            return
        self.port = server.sockets[0].getsockname()[1]
        listening.set_result(None)
        await self._stopped.wait()
        server.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            try:
                there = await self._reach(reader, writer)
            except OSError:
                return
            # The end of the relay cancels open connections, which asyncio would report.
            with contextlib.closing(there[1]), contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(_pass_on(reader, there[1]), _pass_on(there[0], writer))

    async def _loopback(self, *_: object) -> Streams:
        return await asyncio.open_connection("127.0.0.1", self.port)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copies until the end of the stream, and passes the end on."""
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()
