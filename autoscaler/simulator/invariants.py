"""What must hold whatever happened: no leaks, no duplicates, no rush, no overspending."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from autoscaler.simulator.api.api import Api
from autoscaler.simulator.billing import cost_cents
from autoscaler.simulator.cloud.instances import Instance


class Invariants:
    """Counts over everything that an account did.

    What leaks is known only by somebody who says when nothing should run: `expect_none`.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._idle_spans: list[tuple[float, float]] = []
        self._idle_since: float | None = None

    def expect_none(self, expected: bool = True) -> None:
        """From now on every second of a living instance is leaked (or again is not)."""
        with self._api.cloud.lock:
            now = self._api.cloud.settle()
            if not expected and self._idle_since is not None:
                self._idle_spans.append((self._idle_since, now))
                self._idle_since = None
            elif expected and self._idle_since is None:
                self._idle_since = now

    def report(self) -> dict[str, Any]:
        """The counts as of now.

        `leaked_seconds` is the time lived while nothing should; `leaked_instances` how many
        did. Duplicates are the instances beyond the first of one nonce, or of one name with
        overlapping lives. `..._over_rate` count requests that came too early, refused or not.
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
