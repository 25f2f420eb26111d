"""An HTTP server of a simulation: aiohttp on a thread of its own.

Resets and calls without an answer happen on the connection itself.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from aiohttp import web

from autoscaler.simulator.api.api import Reply, Request
from autoscaler.simulator.cloud.clock import Clock, VirtualClock
from autoscaler.simulator.cloud.config import CloudConfig
from autoscaler.simulator.machines.machines import Machines
from autoscaler.simulator.simulation import Simulation

_BODY_MAX_BYTES = 4 * 2**20
_TICK_S = 0.1
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class SimulatedCloud(Simulation):
    """`with SimulatedCloud() as sim:` serves at `sim.url` until the block ends.

    Lambda's API is at `sim.api_url`, and at the same port of each address in `also`. A bound
    `listener` takes the place of host and port. OSError on entry when the port is in use.
    """

    def __init__(
        self,
        config: CloudConfig | None = None,
        *,
        clock: Clock | None = None,
        machines: Machines | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        also: Sequence[str] = (),
        listener: socket.socket | None = None,
    ) -> None:
        super().__init__(config, clock=clock, machines=machines)
        self._host = host
        self._port = port
        self._also = also
        self._listener = listener
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Event | None = None

    @property
    def url(self) -> str:
        """`http://host:port`, without a path."""
        return f"http://{self._host}:{self._port}"

    @property
    def port(self) -> int:
        """The port it listens on; before `start` the one asked for, 0 for any."""
        return self._port

    @property
    def api_url(self) -> str:
        """Base URL of Lambda's API."""
        return f"{self.url}/api/v1"

    def start(self) -> None:
        """Starts the server and returns once it listens. OSError when the port is in use."""
        listening: Future[int] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listening)), name="simulated-cloud", daemon=True
        )
        self._thread.start()
        try:
            self._port = listening.result()
        except OSError:
            self._thread.join()
            self._thread = None
            raise

    def stop(self) -> None:
        """Stops the server, aborting open calls; idempotent. The simulation stays readable."""
        if self._thread is not None and self._loop is not None and self._stopped is not None:
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join()
        self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def _serve(self, listening: Future[int]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        app = web.Application(client_max_size=_BODY_MAX_BYTES)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        try:
            await runner.setup()
            await self._listen(runner)
        except OSError as error:
            listening.set_exception(error)
            await runner.cleanup()
            return
        listening.set_result(self._port)
        ticking = asyncio.create_task(self._tick())
        await self._stopped.wait()
        ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticking
        await runner.cleanup()

    async def _listen(self, runner: web.AppRunner) -> None:
        if self._listener is not None:
            await web.SockSite(runner, self._listener).start()
        else:
            await web.TCPSite(runner, self._host, self._port).start()
        self._port = runner.addresses[0][1]
        for host in self._also:
            await web.TCPSite(runner, host, self._port).start()

    async def _tick(self) -> None:
        """Settles what real time has brought due while no request does."""
        while not isinstance(self.clock, VirtualClock):
            with self.cloud.lock:
                self.cloud.settle()
            await asyncio.sleep(_TICK_S)

    async def _answer(self, http: web.Request) -> web.Response:
        request = Request(
            method=http.method,
            path=http.path,
            query=dict(http.query),
            authorization=http.headers.get("Authorization", ""),
            body=await http.read(),
        )
        answer = self.handle(request)
        if isinstance(answer, Reply):
            headers = {"Content-Type": answer.content_type}
            if answer.retry_after_s is not None:
                headers["Retry-After"] = str(answer.retry_after_s)
            return web.Response(status=answer.status, body=answer.body, headers=headers)
        if answer.how == "timeout":
            while http.transport is not None and not http.transport.is_closing():
                await asyncio.sleep(0.02)
        _reset(http)
        return web.Response(status=500)


def _reset(http: web.Request) -> None:
    """Ends the connection with a TCP reset; nothing more is written to it."""
    if http.transport is None:
        return
    sock: socket.socket = http.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    http.transport.abort()
