"""The simulator's own HTTP controls below `/sim/`, and the invariants that they report.

No control needs an API key.

GET  /sim/ledger                       every instance with its cost
GET  /sim/invariants                   leaks, duplicates, requests over the rate, spend;
                                       POST {"expect_none": true|false}
GET  /sim/calls?endpoint=              the log of API calls
GET  /sim/faults                       faults in force; POST {"kind": ...} adds one
DELETE /sim/faults, /sim/faults/{id}   removes all, or one
GET  /sim/clock                        cloud time; POST {"advance_s": n} in virtual time
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from autoscaler.simulator.api.api import Api, Reply, Request, json_reply
from autoscaler.simulator.cloud.clock import VirtualClock
from autoscaler.simulator.cloud.fault_registry import fault_from_json
from autoscaler.simulator.cloud.instances import Instance, cost_cents, ledger

PREFIX = "/sim"


class Invariants:
    """Counts of what must not happen: leaks, duplicates, requests over the rate, and the spend.

    An instance leaks while it is alive and `expect_none` said that nothing should be.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._idle_spans: list[tuple[float, float]] = []
        self._idle_since: float | None = None

    def expect_none(self, expected: bool = True) -> None:
        """From now on no instance should be alive (or, with False, again may be)."""
        with self._api.cloud.lock:
            now = self._api.cloud.settle()
            if not expected and self._idle_since is not None:
                self._idle_spans.append((self._idle_since, now))
                self._idle_since = None
            elif expected and self._idle_since is None:
                self._idle_since = now

    def report(self) -> dict[str, Any]:
        """The counts as of now.

        `leaked_instances` were alive while nothing should have been, for `leaked_seconds` in
        all. Duplicates are instances beyond the first of one nonce, or of one name at the same
        time. `..._over_rate` count requests that came too early, refused or not.
        """
        api = self._api
        with api.cloud.lock:
            now = api.cloud.settle()
            instances = list(api.cloud.instances.values())
            leaks = [s for i in instances if (s := self._leaked_s(i, now)) > 0]
            nonce_tag = api.cloud.config.nonce_tag
            return {
                "now": now,
                "instances": len(instances),
                "alive": sum(i.alive for i in instances),
                "leaked_instances": len(leaks),
                "leaked_seconds": sum(leaks),
                "duplicate_nonces": _beyond_first(instances, nonce_tag),
                "duplicate_names": _same_name_at_once(instances),
                "requests": sum(api.counts.values()),
                "requests_by_endpoint": dict(api.counts),
                "requests_over_rate": api.limits.over["requests"],
                "launches_over_rate": api.limits.over["launches"],
                "spend_cents": cost_cents(instances, now),
                "burn_cents_per_hour": api.cloud.burn_cents_per_hour,
                "peak_burn_cents_per_hour": api.cloud.peak_burn_cents_per_hour,
            }

    def _leaked_s(self, instance: Instance, now: float) -> float:
        ended = now if instance.ended_at is None else instance.ended_at
        spans = list(self._idle_spans)
        if self._idle_since is not None:
            spans.append((self._idle_since, now))
        lived = (min(ended, end) - max(instance.launched_at, start) for start, end in spans)
        return sum(max(0.0, seconds) for seconds in lived)


def _beyond_first(instances: Iterable[Instance], tag: str) -> int:
    nonces = [i.tags[tag] for i in instances if tag in i.tags]
    return len(nonces) - len(set(nonces))


def _same_name_at_once(instances: Iterable[Instance]) -> int:
    """Instances are in the order of their launches."""
    last_end: dict[str, float] = defaultdict(lambda: float("-inf"))
    duplicates = 0
    for i in instances:
        if i.spec.name:
            duplicates += i.launched_at < last_end[i.spec.name]
            ended = float("inf") if i.ended_at is None else i.ended_at
            last_end[i.spec.name] = max(last_end[i.spec.name], ended)
    return duplicates


class Controls:
    """Reads and controls a running simulation. Safe across threads."""

    def __init__(self, api: Api, invariants: Invariants) -> None:
        self._api = api
        self._cloud = api.cloud
        self._invariants = invariants
        self._routes: dict[tuple[str, str], Callable[[Request], Any]] = {
            ("GET", "/ledger"): self._ledger,
            ("GET", "/invariants"): lambda _: self._invariants.report(),
            ("POST", "/invariants"): self._expect,
            ("GET", "/calls"): self._calls,
            ("GET", "/faults"): lambda _: self._cloud.faults.to_json(),
            ("POST", "/faults"): self._add_fault,
            ("DELETE", "/faults"): self._remove_faults,
            ("GET", "/clock"): lambda _: {"now": self._cloud.clock.now()},
            ("POST", "/clock"): self._advance,
        }

    def handle(self, request: Request) -> Reply:
        """Answers `{"data": ...}`, or 400 or 404 with `{"error": {"code", "message"}}`."""
        path = request.path.removeprefix(PREFIX).rstrip("/")
        if request.method == "DELETE" and path.startswith("/faults/"):
            path = "/faults"
        handler = self._routes.get((request.method, path))
        if handler is None:
            return _refusal(404, f"{request.method} {request.path}: no such control")
        try:
            with self._cloud.lock:
                self._cloud.settle()
                return json_reply(200, {"data": handler(request)})
        except ValueError as error:
            return _refusal(400, str(error))

    def _ledger(self, request: Request) -> Any:
        return ledger(self._cloud.instances.values(), self._cloud.clock.now())

    def _expect(self, request: Request) -> Any:
        expected = _body(request).get("expect_none")
        if not isinstance(expected, bool):
            raise ValueError("expect_none: must be true or false")
        self._invariants.expect_none(expected)
        return self._invariants.report()

    def _calls(self, request: Request) -> Any:
        wanted = request.query.get("endpoint")
        return [asdict(c) for c in self._api.calls if wanted in (None, c.endpoint)]

    def _add_fault(self, request: Request) -> Any:
        return {"id": self._cloud.add_fault(fault_from_json(_body(request)))}

    def _remove_faults(self, request: Request) -> Any:
        number = request.path.removeprefix(f"{PREFIX}/faults").strip("/")
        if not number:
            self._cloud.faults.clear()
        elif not number.isdecimal() or not self._cloud.faults.remove(int(number)):
            raise ValueError(f"{number[:64]}: no such fault")
        return {}

    def _advance(self, request: Request) -> Any:
        seconds = _body(request).get("advance_s")
        clock = self._cloud.clock
        if not isinstance(clock, VirtualClock):
            raise ValueError(
                "advance_s: the clock runs by itself; start with --speed 0 to advance it"
            )
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise ValueError("advance_s: must be a number of seconds")
        clock.advance(seconds)
        return {"now": self._cloud.settle()}


def _body(request: Request) -> dict[str, Any]:
    body = json.loads(request.body or b"{}")
    if not isinstance(body, dict):
        raise ValueError("body: must be a JSON object")
    return body


def _refusal(status: int, message: str) -> Reply:
    return json_reply(status, {"error": {"code": "sim/invalid", "message": message}})
