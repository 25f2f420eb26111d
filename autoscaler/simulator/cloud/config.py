"""The configuration of a simulated account: timing, capacity, limits, and the API's open questions.

What Lambda does not document is a field here, so that a test can try each possibility.
"""

from dataclasses import dataclass, field, fields
from typing import Literal

Range = tuple[float, float]
"""(minimum, maximum) of a uniform draw."""


@dataclass(frozen=True)
class Window:
    """A time with capacity, in cloud seconds since the cloud began.

    `instance_type` and `region` are shell patterns (`gpu_*`, `*`). An offering that any
    window matches has capacity inside its windows only.
    """

    instance_type: str
    region: str
    opens_s: float
    closes_s: float


def _boots() -> dict[str, Range]:
    return {"cpu": (60, 120), "single": (180, 330), "multi": (600, 900)}


@dataclass(frozen=True)
class CloudConfig:
    """How the account behaves; the defaults are what users of Lambda have reported.

    Durations and times are cloud seconds, chances are between 0 and 1. ValueError names the
    field that is invalid.
    """

    seed: int = 0
    """Seed of all random draws: the same calls at the same times get the same answers."""
    api_keys: tuple[str, ...] = ("sim",)
    """The account's API keys."""

    # Boot and end of an instance
    boot_s: dict[str, Range] = field(default_factory=_boots)
    """Launch to `active`, by size: `cpu`, `single` (one GPU), `multi`."""
    ip_at: Range = (0.3, 0.6)
    """Share of the boot after which the addresses are known."""
    regions_without_private_ip: tuple[str, ...] = ("us-south-1",)
    """Regions whose instances never show a `private_ip`."""
    terminating_s: Range = (10, 60)
    """How long `terminating` lasts."""
    terminated_listed_s: float = 0.0
    """How long a terminated instance stays in the list."""
    preempted_listed_s: float = 60.0
    """How long a preempted instance stays in the list."""
    terminated_known_s: float = 3600.0
    """How long an ended instance answers by id before 404."""
    restart_s: float = 60.0
    """How long a restarted instance shows `booting`."""
    status_after_shutdown: Literal["active", "unhealthy"] = "unhealthy"
    """Status of an instance whose system shut down; it is billed in both cases."""
    stuck_booting_chance: float = 0.0
    """Chance that an instance never leaves `booting`."""
    unhealthy_chance: float = 0.0
    """Chance that an instance becomes `unhealthy` within `fails_within_s` of being active."""
    preempted_chance: float = 0.0
    """Chance that an instance is preempted within `fails_within_s` of being active."""
    dead_cuda_chance: float = 0.0
    """Chance that an instance becomes active with a CUDA that does not start."""
    fails_within_s: float = 7200.0
    """When `unhealthy_chance` and `preempted_chance` strike, after being active."""

    # Capacity
    windows: tuple[Window, ...] = ()
    """Fixed times with capacity."""
    mean_open_s: float | None = None
    """Mean length of random spells with capacity, exponential, by offering; None: always."""
    mean_closed_s: float = 600.0
    """Mean length of the spells without."""
    advertised_lag_s: float = 0.0
    """Age of the capacity that `/instance-types` shows."""
    refused_chance: float = 0.0
    """Chance that a launch gets insufficient capacity though there is some."""
    max_instances: int | None = None
    """Quota of instances; None: no quota."""
    max_file_systems: int = 24
    """Quota of file systems."""

    # Rate limits, on the client's clock
    request_interval_s: float = 1.0
    """One request per this many seconds."""
    request_burst: int = 1
    """Requests that an idle account may send at once."""
    launch_interval_s: float = 12.0
    """The same for launches."""
    launch_burst: int = 1
    """"One per 12 s, or five per minute" may also mean 5 here."""
    rate_scope: Literal["account", "key"] = "account"
    """What shares one rate limit."""
    enforce_rates: bool = True
    """False: requests over the rate are counted, not refused."""
    launches_use_request_allowance: bool = True
    """Whether a launch also counts as a request."""
    refused_launches_use_allowance: bool = True
    """Whether a launch that gets a 4xx has used the launch allowance."""
    rate_limited_code: str | None = "global/rate-limited"
    """Error code of a 429; None: an empty body."""
    send_retry_after: bool = False
    """Whether a 429 has a `Retry-After`."""

    # Lists
    page_size: int | None = None
    """Instances per page of the list; None: no pages, as documented."""
    list_lag_s: Range = (0, 0)
    """How long the list omits a new instance (`GET /instances/{id}` has it)."""
    omitted_chance: float = 0.0
    """Chance, by instance and list, that the list omits a live instance."""

    # Refusals that the document leaves open
    reject_unknown_fields: bool = True
    """Whether a request with an undocumented field is refused."""
    launch_not_found_status: Literal[400, 404] = 404
    """Status of a launch that names something unknown; the document has both."""
    terminate_unknown: Literal["refuse-all", "skip"] = "refuse-all"
    """What a terminate does when some of its ids are unknown."""
    terminate_again: Literal["ok", "unknown-error"] = "ok"
    """A terminate of an instance that is terminating: 200, or 400 `global/unknown`."""
    max_tags: int | None = None
    """Maximum of tags per launch; None: none."""
    reserved_tag_prefix: str | None = "lambda-ai-"
    """Tag keys that only Lambda may set."""

    # The bill
    billing_from: Literal["active", "launch"] = "active"
    """When the meter starts."""
    billing_until: Literal["request", "terminated"] = "request"
    """When a termination stops the meter."""
    nonce_tag: str = "raylambda-nonce"
    """The tag of one intended launch: two instances with the same value are duplicates."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name.endswith("_chance") and not 0 <= value <= 1:
                raise ValueError(f"{f.name}: {value} is not between 0 and 1")
            if f.type == "Range" or f.type is Range:
                _check_range(f.name, value)
        for size, span in self.boot_s.items():
            _check_range(f"boot_s[{size}]", span)
        if missing := {"cpu", "single", "multi"} - set(self.boot_s):
            raise ValueError(f"boot_s: no times for {', '.join(sorted(missing))}")
        for name in ("request_burst", "launch_burst"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be at least 1")
        if self.page_size is not None and self.page_size < 1:
            raise ValueError(f"page_size: {self.page_size} must be at least 1")
        if not self.api_keys or not all(self.api_keys):
            raise ValueError("api_keys: must hold at least one key, none of them empty")


def _check_range(name: str, span: Range) -> None:
    if not 0 <= span[0] <= span[1]:
        raise ValueError(f"{name}: {span} is not (minimum, maximum) from 0 upwards")
