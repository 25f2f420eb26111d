"""Lets machines reach a server that listens on this host's loopback alone."""

import asyncio
import contextlib
import threading
from concurrent.futures import Future

_CHUNK_BYTES = 2**16


class Relay:
    """`with Relay("10.1.2.1", 9000):` passes connections of that address on to the same port of
    127.0.0.1. OSError on entry when the port is taken."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port

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
            server = await asyncio.start_server(self._connect, self._host, self._port)
        except OSError as error:
            listening.set_exception(error)
            return
        listening.set_result(None)
        await self._stopped.wait()
        server.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            try:
                there = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                return
            with contextlib.closing(there[1]):
                await asyncio.gather(_pass_on(reader, there[1]), _pass_on(there[0], writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the end of what is read, which is passed on too."""
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()
