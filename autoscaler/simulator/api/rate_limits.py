"""Rate limits of the account: token buckets, and the count of requests over them."""

from collections import Counter

from autoscaler.simulator.cloud.config import CloudConfig


class TokenBucket:
    """At most `burst` tokens, refilled by one per `interval_s` seconds; 0: no limit."""

    def __init__(self, interval_s: float, burst: int) -> None:
        self._interval_s = interval_s
        self._burst = burst
        self._tokens = float(burst)
        self._at: float | None = None

    def wait_s(self, now: float) -> float:
        """Seconds until there is a token; 0 when there is one."""
        if self._interval_s == 0:
            return 0.0
        if self._at is not None:
            gained = max(0.0, now - self._at) / self._interval_s
            self._tokens = min(self._burst, self._tokens + gained)
        self._at = now
        # Sums of many small steps fall short of a whole token by rounding.
        return 0.0 if self._tokens > 1 - 1e-6 else (1 - self._tokens) * self._interval_s

    def take(self) -> None:
        """Takes a token if there is one; `RateLimits` counts requests that come without."""
        self._tokens = max(0.0, self._tokens - 1)

    def put_back(self) -> None:
        """Returns the token of a request that does not count."""
        self._tokens = min(self._burst, self._tokens + 1)


class RateLimits:
    """The rate limits of requests and of launches, counted even where they are not enforced.

    `over["requests"]` and `over["launches"]` count the requests that came too early.
    """

    def __init__(self, config: CloudConfig) -> None:
        self._config = config
        self._requests: dict[str, TokenBucket] = {}
        self._launches: dict[str, TokenBucket] = {}
        self.over: Counter[str] = Counter()

    def _buckets(self, key: str) -> tuple[TokenBucket, TokenBucket]:
        c = self._config
        scope = key if c.rate_scope == "key" else ""
        if scope not in self._requests:
            self._requests[scope] = TokenBucket(c.request_interval_s, c.request_burst)
            self._launches[scope] = TokenBucket(c.launch_interval_s, c.launch_burst)
        return self._requests[scope], self._launches[scope]

    def admit(self, key: str, is_launch: bool, now: float) -> float:
        """0 when the request may run, else the seconds that it came too early.

        A refused request uses no token. Without `enforce_rates` every request may run.
        """
        requests, launches = self._buckets(key)
        as_request = not is_launch or self._config.launches_use_request_allowance
        waits = {
            "requests": requests.wait_s(now) if as_request else 0.0,
            "launches": launches.wait_s(now) if is_launch else 0.0,
        }
        self.over.update(name for name, wait in waits.items() if wait > 0)
        wait = max(waits.values())
        if wait > 0 and self._config.enforce_rates:
            return wait
        if as_request:
            requests.take()
        if is_launch:
            launches.take()
        return 0.0

    def launch_refused(self, key: str) -> None:
        """Reports that an admitted launch got a 4xx."""
        if not self._config.refused_launches_use_allowance:
            self._buckets(key)[1].put_back()
