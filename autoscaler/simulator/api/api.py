"""Lambda's API over a simulated cloud: one request from its bytes to its answer, without a network.

The checks are in the order of a gateway before a service: key, rate, fault, path, body, effect.
"""

import base64
import binascii
import hashlib
import hmac
import json
import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autoscaler.simulator.api import endpoints
from autoscaler.simulator.api.rate_limits import RateLimits
from autoscaler.simulator.api.validation import SCHEMAS, parse_body
from autoscaler.simulator.cloud import errors
from autoscaler.simulator.cloud.cloud import Cloud
from autoscaler.simulator.cloud.faults import FailNext, Outage

PREFIX = "/api/v1"
_HTML = b"<html><head><title>Bad Gateway</title></head><body>upstream</body></html>"
_CALLS_KEPT = 100_000
_BEFORE_THE_RATE = ("global/invalid-api-key", "global/account-inactive")


@dataclass(frozen=True)
class Request:
    """An HTTP request. `path` is the full path without the query."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    authorization: str = ""
    body: bytes = b""


@dataclass(frozen=True)
class Reply:
    """An HTTP response."""

    status: int
    body: bytes
    content_type: str = "application/json"
    retry_after_s: int | None = None


@dataclass(frozen=True)
class Broken:
    """No response: a `reset`, or a `timeout` in which the client waits until it gives up."""

    how: str


Answer = Reply | Broken


@dataclass(frozen=True)
class CallRecord:
    """A line of the call log. `outcome` is a status, `reset` or `timeout`; `key` a fingerprint."""

    at: float
    endpoint: str
    subject: str
    outcome: int | str
    code: str
    key: str


def json_reply(status: int, body: Any) -> Reply:
    """A JSON response."""
    return Reply(status, json.dumps(body).encode())


def key_of(authorization: str) -> str:
    """The API key of an `Authorization` header, "" for none.

    Bearer, Basic with base64 of `key:`, and Basic with the bare key are documented.
    """
    scheme, _, rest = authorization.strip().partition(" ")
    rest = rest.strip()
    if scheme.lower() == "bearer":
        return rest
    if scheme.lower() != "basic":
        return ""
    try:
        decoded = base64.b64decode(rest, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return rest
    user, colon, password = decoded.partition(":")
    return user if colon and not password else rest


class Api:
    """Lambda's API over a cloud. Safe across threads: a call holds the cloud's lock."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.limits = RateLimits(cloud.config)
        self.calls: deque[CallRecord] = deque(maxlen=_CALLS_KEPT)
        self.counts: Counter[str] = Counter()
        """Calls by endpoint, refused and failed ones included."""

    def handle(self, request: Request) -> Answer:
        """Answers one request."""
        with self.cloud.lock:
            now = self.cloud.settle()
            key = key_of(request.authorization)
            found = endpoints.find(request.method, request.path.removeprefix(PREFIX))
            name, handler, path_id = found or ("unknown", None, "")
            call = endpoints.Call(id=path_id, query=request.query, subject=path_id)
            code = ""
            try:
                self._check_key(key, now)
                answer = self._limited(name, key) or self._run(
                    name, handler, call, request.body, now
                )
            except errors.ApiError as error:
                code = error.code
                answer = json_reply(error.status, error.to_json())
            outcome = answer.how if isinstance(answer, Broken) else answer.status
            mark = hashlib.sha256(key.encode()).hexdigest()[:8]
            self.calls.append(CallRecord(now, name, call.subject, outcome, code, mark))
            self.counts[name] += 1
            if name == "launch" and code and code not in _BEFORE_THE_RATE:
                self.limits.launch_refused(key)
            return answer

    def _check_key(self, key: str, now: float) -> None:
        faults = self.cloud.faults
        known = [k for k in self.cloud.config.api_keys if hmac.compare_digest(k, key)]
        if not known or faults.revoked(key, now):
            raise errors.invalid_api_key()
        if faults.account_inactive(now):
            raise errors.account_inactive()

    def _limited(self, name: str, key: str) -> Reply | None:
        """The 429 of a request over the rate limit; None for one within it."""
        config = self.cloud.config
        wait_s = self.limits.admit(key, name == "launch", self.cloud.clock.client_now())
        if wait_s == 0:
            return None
        retry_after_s = math.ceil(wait_s) if config.send_retry_after else None
        if config.rate_limited_code is None:
            return Reply(429, b"", "text/plain", retry_after_s)
        error = errors.ApiError(429, config.rate_limited_code, "Too many requests.")
        body = json.dumps(error.to_json()).encode()
        return Reply(429, body, retry_after_s=retry_after_s)

    def _run(
        self,
        name: str,
        handler: endpoints.Handler | None,
        call: endpoints.Call,
        raw: bytes,
        now: float,
    ) -> Answer:
        fault = self.cloud.faults.failure(name, now)
        if fault is not None and not (isinstance(fault, FailNext) and fault.committed):
            return _failed(fault)
        if isinstance(fault, FailNext):
            call.commit_after_s = fault.commit_after_s
        try:
            if handler is None:
                raise errors.not_found()
            if name in SCHEMAS:
                reject = self.cloud.config.reject_unknown_fields
                call.body = parse_body(name, raw, reject)
            body = handler(self.cloud, call)
        except errors.ApiError:
            # The fault hides the service's refusal from the client.
            if fault is not None:
                return _failed(fault)
            raise
        return json_reply(200, body) if fault is None else _failed(fault)


def _failed(fault: FailNext | Outage) -> Answer:
    if isinstance(fault.failure, str):
        return Broken(fault.failure)
    if isinstance(fault, Outage) or fault.body == "json":
        code = fault.code if isinstance(fault, FailNext) else "provider/internal-unavailable"
        error = errors.ApiError(fault.failure, code, "Try again shortly.", "Try again later.")
        return json_reply(fault.failure, error.to_json())
    if fault.body == "html":
        return Reply(fault.failure, _HTML, "text/html")
    return Reply(fault.failure, b'{"error": {"code": "glo')
