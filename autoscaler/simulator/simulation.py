"""A simulated cloud in one process, without a network: the object, and its `requests` transport.

Time is virtual by default and nothing waits, so a test runs through thousands of schedules.
"""

import io
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3 import HTTPResponse

from autoscaler.simulator.api import controls
from autoscaler.simulator.api.api import Answer, Api, Broken, Reply, Request
from autoscaler.simulator.cloud.clock import Clock, VirtualClock
from autoscaler.simulator.cloud.cloud import Cloud
from autoscaler.simulator.cloud.config import CloudConfig
from autoscaler.simulator.cloud.faults import Fault
from autoscaler.simulator.machines.machines import Machines, NoMachines


class Simulation:
    """The cloud, its API, its controls and its invariants. Every method is safe across threads.

    Without a clock time is virtual; without machines an instance is a record only.
    """

    def __init__(
        self,
        config: CloudConfig | None = None,
        *,
        clock: Clock | None = None,
        machines: Machines | None = None,
    ) -> None:
        self.clock = clock or VirtualClock()
        self.cloud = Cloud(config or CloudConfig(), self.clock, machines or NoMachines())
        self.api = Api(self.cloud)
        self.invariants = controls.Invariants(self.api)
        self.controls = controls.Controls(self.api, self.invariants)

    def handle(self, request: Request) -> Answer:
        """Answers a request to Lambda's API or to the controls."""
        if request.path.startswith(controls.PREFIX + "/"):
            return self.controls.handle(request)
        return self.api.handle(request)

    def advance(self, seconds: float) -> float:
        """Advances virtual time, settles what came due, and returns the new cloud time.

        TypeError for a clock that runs by itself.
        """
        if not isinstance(self.clock, VirtualClock):
            raise TypeError("only virtual time can be advanced")
        with self.cloud.lock:
            self.clock.advance(seconds)
            return self.cloud.settle()

    def add_fault(self, fault: Fault) -> int:
        """Injects a fault and returns its number. ValueError for an unknown instance."""
        with self.cloud.lock:
            self.cloud.settle()
            return self.cloud.add_fault(fault)

    def remove_fault(self, number: int) -> bool:
        """Removes a fault; False when there is none of this number."""
        with self.cloud.lock:
            return self.cloud.faults.remove(number)


class InProcessAdapter(BaseAdapter):
    """A transport for `requests`: `session.mount("https://", InProcessAdapter(simulation))`.

    A reset and a call without an answer raise what `requests` raises over a network; the latter
    advances virtual time by the call's read timeout.
    """

    def __init__(self, simulation: Simulation) -> None:
        super().__init__()
        self._simulation = simulation
        self._http = HTTPAdapter()

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[float | None, float | None] | None = None,
        verify: bool | str = True,
        cert: str | bytes | tuple[str | bytes, str | bytes] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        answer = self._simulation.handle(_request(request))
        if isinstance(answer, Reply):
            return self._http.build_response(request, _raw(answer))
        self._fail(answer, request, timeout)
        raise AssertionError("unreachable: a broken call always raises")

    def close(self) -> None:
        self._http.close()

    def _fail(
        self,
        broken: Broken,
        request: requests.PreparedRequest,
        timeout: float | tuple[float | None, float | None] | None,
    ) -> None:
        if broken.how == "reset":
            raise requests.ConnectionError("Connection reset by peer", request=request)
        read_s = timeout[1] if isinstance(timeout, tuple) else timeout
        if read_s is None:
            raise RuntimeError("a request without a read timeout would wait forever")
        self._simulation.advance(read_s)
        raise requests.ReadTimeout(f"Read timed out. (read timeout={read_s})", request=request)


def _request(request: requests.PreparedRequest) -> Request:
    parts = urlsplit(request.url or "")
    body = request.body or b""
    if not isinstance(body, str | bytes):
        raise TypeError("streamed request bodies are not part of this API")
    return Request(
        method=request.method or "GET",
        path=parts.path,
        query=dict(parse_qsl(parts.query)),
        authorization=str(request.headers.get("Authorization", "")),
        body=body.encode() if isinstance(body, str) else body,
    )


def _raw(reply: Reply) -> HTTPResponse:
    headers = {"Content-Type": reply.content_type, "Content-Length": str(len(reply.body))}
    if reply.retry_after_s is not None:
        headers["Retry-After"] = str(reply.retry_after_s)
    return HTTPResponse(io.BytesIO(reply.body), headers, reply.status, preload_content=False)
