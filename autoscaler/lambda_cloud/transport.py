"""HTTP transport: one request to Lambda with auth, rate limit, timeouts, retries and our errors.

The caller says what may be sent twice. The key goes to the configured address only
(no redirects) and appears in no error, log, URL or repr.
"""

import json
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import requests
import requests.auth
from requests.adapters import BaseAdapter
from urllib3.exceptions import MaxRetryError, NewConnectionError

from autoscaler.domain import ApiKey, Lane
from autoscaler.errors import (
    AutoscalerError,
    ConfigError,
    ProtocolError,
    RateLimitedError,
    UnavailableError,
    from_answer,
)
from autoscaler.events import EventLog, utc
from autoscaler.lambda_cloud.wire import ErrorBody, Json, read

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
"""Silence on the socket after which a request has failed."""
ATTEMPT_TIMEOUT_S = 45.0
"""Bound of one whole answer: a server that trickles bytes never trips the read timeout."""
MAX_ATTEMPTS = 4
BACKOFF_S = 1.0
"""First pause before a retry; it doubles, and its upper half is random (laptop and head differ)."""
MAX_RETRY_AFTER_S = 30.0
"""A longer Retry-After is raised as an error, not slept through."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""About 25,000 instances."""
USER_AGENT = "raylambda/0.1"

logger = logging.getLogger(__name__)


class RateLimit(Protocol):
    """Shares the account's rate; `rate_limit.SharedRateLimit` is the real one."""

    def wait(self, lane: Lane, deadline_s: float | None = None) -> object:
        """Blocks until a request may be sent; UnavailableError if not before `deadline_s`."""
        ...

    def back_off(self, lane: Lane, delay_s: float | None) -> float:
        """Lambda answered 429: nobody sends for `delay_s` (None: it did not say how long).
        Returns the epoch second until which."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Json
    """None where the answer is not JSON."""


class _BearerAuth(requests.auth.AuthBase):
    """As an auth object the key is not among the session's headers, and ~/.netrc is ignored."""

    def __init__(self, key: ApiKey) -> None:
        self._key = key

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        r.headers["Authorization"] = f"Bearer {self._key.reveal()}"
        return r


class Transport:
    """Thread-safe. `clock` is in seconds and only measures the length of an answer."""

    def __init__(
        self,
        key: ApiKey,
        base_url: str,
        rate_limit: RateLimit,
        events: EventLog,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
        adapter: BaseAdapter | None = None,
    ) -> None:
        self._key = key
        self._base_url = base_url.rstrip("/")
        self._rate_limit = rate_limit
        self._events = events
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._auth = _BearerAuth(key)
        self._session = requests.Session()
        self._session.headers["User-Agent"] = USER_AGENT
        # The environment's proxies and certificates, read once and not with every request.
        settings = self._session.merge_environment_settings(self._base_url, {}, None, None, None)
        self._session.proxies.update(settings["proxies"] or {})
        self._session.verify = settings["verify"]
        self._session.trust_env = False
        if adapter is not None:
            self._session.mount(self._base_url, adapter)

    def wait_for_slot(self, lane: Lane, deadline_s: float | None = None) -> None:
        self._rate_limit.wait(lane, deadline_s)

    def send(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Json] | None = None,
        params: Mapping[str, str] | None = None,
        lane: Lane = Lane.GENERAL,
        repeatable: bool,
    ) -> dict[str, Json]:
        """The answer's body; its envelope, mostly `data`, is the caller's to open.

        A repeatable request is retried on 429, 5xx, broken connections and broken answers,
        at most MAX_ATTEMPTS times in all; any other is retried on 429 only (not executed).
        """
        for attempt in range(MAX_ATTEMPTS):
            self._rate_limit.wait(lane)
            try:
                return self.send_once(method, path, body=body, params=params, lane=lane)
            except UnavailableError as error:
                last = attempt == MAX_ATTEMPTS - 1
                if last or not (repeatable or error.not_executed):
                    raise
                pause_s = self._pause_s(error, attempt)
                self._log_retry(method, path, error, pause_s)
                self._sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    def _pause_s(self, error: UnavailableError, attempt: int) -> float:
        if isinstance(error, RateLimitedError):
            if (error.retry_after_s or 0.0) > MAX_RETRY_AFTER_S:
                raise error
            return 0.0  # the rate limit now holds everyone back for as long as Lambda asks
        return BACKOFF_S * 2**attempt * (0.5 + 0.5 * self._jitter())

    def _log_retry(self, method: str, path: str, error: UnavailableError, pause_s: float) -> None:
        """Counts every retry, and writes at most one event of a kind in a minute."""
        next_try_s = self._events.clock() + pause_s
        if isinstance(error, RateLimitedError) and error.next_try_s:
            next_try_s = error.next_try_s
        endpoint = "/".join(path.split("/")[:2])  # without an id
        if self._events.write_seldom(
            f"{method} {endpoint} {error.code}",
            "request-retried",
            request=f"{method} {path}",
            code=error.code,
            error=str(error),
            next_try=utc(next_try_s),
        ):
            logger.warning("%s; sent again at %s", error, utc(next_try_s))

    def send_once(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Json] | None = None,
        params: Mapping[str, str] | None = None,
        lane: Lane = Lane.GENERAL,
    ) -> dict[str, Json]:
        """One attempt, at once: the caller has waited for its slot."""
        where = f"{method} {path}"
        answer, retry_after_s = self._exchange(method, path, where, body, params)
        if not 200 <= answer.status < 300:
            error = self._error_of(answer, where)
            if isinstance(error, RateLimitedError):
                error.retry_after_s = retry_after_s
                error.next_try_s = self._rate_limit.back_off(lane, retry_after_s)
            raise error
        if not isinstance(answer.body, dict):
            raise ProtocolError(f"{where}: the answer is not a JSON object", status=answer.status)
        return answer.body

    def _exchange(
        self,
        method: str,
        path: str,
        where: str,
        body: Mapping[str, Json] | None,
        params: Mapping[str, str] | None,
    ) -> tuple[Answer, float | None]:
        try:
            with self._session.request(
                method,
                self._base_url + path,
                json=cast(Json, body),
                params=dict(params) if params else None,
                auth=self._auth,
                timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
                allow_redirects=False,
                stream=True,
            ) as response:
                text = self._read(response, where)
                retry_after_s = _seconds(response.headers.get("Retry-After"))
                return Answer(response.status_code, _parse(text)), retry_after_s
        except requests.RequestException as error:
            # `from None`: the chained exception holds the request, and with it the key.
            reason = self._key.redact(_reason(error))
            raise UnavailableError(
                f"{where}: {reason}", not_executed=_was_never_sent(error)
            ) from None

    def _read(self, response: requests.Response, where: str) -> bytes:
        started_s = self._clock()
        chunks: list[bytes] = []
        size_bytes = 0
        for chunk in response.iter_content(64 * 1024):
            chunks.append(chunk)
            size_bytes += len(chunk)
            if size_bytes > MAX_ANSWER_BYTES:
                raise ProtocolError(f"{where}: the answer is over {MAX_ANSWER_BYTES} bytes")
            if self._clock() - started_s > ATTEMPT_TIMEOUT_S:
                raise UnavailableError(f"{where}: no full answer in {ATTEMPT_TIMEOUT_S:.0f} s")
        return b"".join(chunks)

    def _error_of(self, answer: Answer, where: str) -> AutoscalerError:
        if 300 <= answer.status < 400:
            return ConfigError(
                f"LAMBDA_API_URL: {where} is answered with a redirect, and the key is not sent on",
                status=answer.status,
            )
        body = answer.body if isinstance(answer.body, dict) else {}
        said = read(ErrorBody, body, where)
        return from_answer(answer.status, said.code, self._key.redact(said.message), where)


def _parse(text: bytes) -> Json:
    try:
        return cast(Json, json.loads(text))
    except (ValueError, RecursionError):
        return None


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After in seconds; its date form is not used by Lambda and counts as absent."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < 86_400 else None


def _was_never_sent(error: requests.RequestException) -> bool:
    """True where no connection came about, so that no byte of the request left."""
    if isinstance(error, requests.ConnectTimeout):
        return True
    cause = error.args[0] if error.args else None
    if isinstance(error, requests.exceptions.ProxyError) or not isinstance(cause, MaxRetryError):
        return False
    return isinstance(cause.reason, NewConnectionError)


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {CONNECT_TIMEOUT_S:.0f} s"
    if isinstance(error, requests.Timeout):
        return f"no answer within {READ_TIMEOUT_S:.0f} s"
    if _was_never_sent(error):
        return "the API cannot be reached"
    return f"the connection broke ({type(error).__name__})"
