"""Lets machines reach what they have no way to: a server on this host's loopback, or beyond it."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

_CHUNK_BYTES = 2**16

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Reach = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[Streams]]
"""The far side for a connection, of which it may read and write the beginning; OSError: none."""


class Relay:
    """`with Relay("10.1.2.1", 9000):` passes connections of that address on to the same port of
    127.0.0.1, or to where `reach` says. With port 0 any is taken, and stands in `port` then.
    OSError on entry when the port is taken."""

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
            # Cancelled is who is still connected when the relay ends, and asyncio would tell of it.
            with contextlib.closing(there[1]), contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(_pass_on(reader, there[1]), _pass_on(there[0], writer))

    async def _loopback(self, *_: object) -> Streams:
        return await asyncio.open_connection("127.0.0.1", self.port)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the end of what is read, which is passed on too."""
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()
