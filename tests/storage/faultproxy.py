"""An HTTP/1.1 proxy before an S3 server that refuses, drops, stalls or slows what it is told to."""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["create", "part", "complete", "put", "get", "head", "list", "delete", "other"]
EVERY_WRITE: tuple[Kind, ...] = ("create", "part", "complete", "put")
_BLOCK_BYTES = 65536


@dataclass
class Fault:
    """Hits requests of `kinds` whose path holds `match`, the first `times` of them (-1: all)."""

    action: Literal["answer", "drop", "stall"]
    kinds: tuple[Kind, ...] = EVERY_WRITE
    status: int = 503
    code: str = "SlowDown"
    match: str = ""
    times: int = -1
    hits: int = field(default=0, init=False)

    def strikes(self, kind: Kind, path: str) -> bool:
        if kind not in self.kinds or self.match not in path or self.hits == self.times:
            return False
        self.hits += 1
        return True


@dataclass(frozen=True)
class Head:
    """A request's or response's first line and headers."""

    raw: bytes

    @property
    def words(self) -> list[str]:
        return self.raw.partition(b"\r\n")[0].decode("latin1").split(" ")

    def header(self, name: str) -> str:
        for line in self.raw.decode("latin1").split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.strip().lower() == name:
                return value.strip().lower()
        return ""


class FaultProxy:
    """`with FaultProxy(port) as proxy:` set `proxy.fault`, read `proxy.seen` (requests by kind)."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.fault: Fault | None = None
        self.bytes_per_s: float | None = None
        self.seen: Counter[Kind] = Counter()
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        server: list[asyncio.StreamWriter] = []
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                upstream = None
                while head := await _read_head(reader):
                    if not await self._allow(head, reader, writer):
                        break
                    if upstream is None:
                        upstream = await asyncio.open_connection("127.0.0.1", self._target_port)
                        server.append(upstream[1])
                    if not await self._relay(head, reader, writer, *upstream):
                        break
        finally:
            for end in (writer, *server):
                end.transport.abort()
            self._tasks.discard(task)

    async def _allow(
        self, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        method, path = head.words[:2]
        kind, fault = _kind(method, path), self.fault
        self.seen[kind] += 1
        if fault is None or not fault.strikes(kind, path):
            return True
        if fault.action == "stall":
            await asyncio.sleep(3600)
        if fault.action == "answer":
            if not head.header("expect"):
                async for _ in _body(head, reader):
                    pass
            text = f"<Error><Code>{fault.code}</Code><Message>injected</Message></Error>".encode()
            body = b"" if method == "HEAD" else text
            writer.write(
                f"HTTP/1.1 {fault.status} Injected\r\nContent-Type: application/xml\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                + body
            )
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        return False

    async def _relay(
        self,
        head: Head,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> bool:
        """One request and its response. False when the connection ends after it."""
        to_server.write(head.raw)
        expects = head.header("expect") == "100-continue"
        answer = await _read_head(server) if expects else None
        if answer is not None and answer.words[1] == "100":
            to_client.write(answer.raw)
            answer = None
        if answer is None:
            async for block in _body(head, client):
                to_server.write(block)
                await to_server.drain()
                await self._brake(len(block))
            answer = await _read_head(server)
        if answer is None:
            return False
        to_client.write(answer.raw)
        if head.words[0] != "HEAD" and answer.words[1] not in ("204", "304"):
            async for block in _body(answer, server):
                to_client.write(block)
                await to_client.drain()
        await to_client.drain()
        return "close" not in (answer.header("connection"), head.header("connection"))

    async def _brake(self, size_bytes: int) -> None:
        if self.bytes_per_s is not None:
            await asyncio.sleep(size_bytes / self.bytes_per_s)


async def _read_head(reader: asyncio.StreamReader) -> Head | None:
    try:
        return Head(await reader.readuntil(b"\r\n\r\n"))
    except asyncio.IncompleteReadError:
        return None


async def _body(head: Head, reader: asyncio.StreamReader):
    """The message's body in blocks as they are on the wire."""
    if head.header("transfer-encoding") == "chunked":
        size = -1
        while size != 0:
            line = await reader.readline()
            size = int(line.split(b";")[0], 16)
            yield line + await reader.readexactly(size + 2)
        return
    left = int(head.header("content-length") or 0)
    while left:
        block = await reader.read(min(left, _BLOCK_BYTES))
        if not block:
            raise EOFError
        left -= len(block)
        yield block


def _kind(method: str, path: str) -> Kind:
    query = path.partition("?")[2]
    if method == "PUT":
        return "part" if "partNumber=" in query else "put"
    if method == "POST":
        if "uploadId=" in query:
            return "complete"
        return "create" if "uploads" in query else "delete" if "delete" in query else "other"
    if method == "GET":
        return "list" if "list-type=" in query else "get"
    return {"HEAD": "head", "DELETE": "delete"}.get(method, "other")  # type: ignore[return-value]


@contextlib.contextmanager
def fault_on(proxy: FaultProxy, fault: Fault) -> Iterator[Fault]:
    """The fault for the length of a block, which must meet it."""
    proxy.fault = fault
    try:
        yield fault
    finally:
        proxy.fault = None
    assert fault.hits > 0, "no request met the fault"
