"""A transport for `requests` that ends in a simulation of the same process.

It makes thousands of schedules in virtual time possible: no socket, no thread, no waiting.
"""

import io
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3 import HTTPResponse

from autoscaler.simulator.api.api import Broken, Reply, Request
from autoscaler.simulator.server import Simulation


class InProcessAdapter(BaseAdapter):
    """Mount it on a session for any URL: `session.mount("https://", InProcessAdapter(sim))`.

    A call that is never answered costs its own read timeout of virtual time and then raises
    what `requests` raises over a network, as a reset does.
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
            raise RuntimeError("a request without a read timeout would wait for ever")
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
