"""Faults that can be injected, each a frozen record that its `kind` names in JSON.

Instance types, regions and ids are shell patterns (`gpu_*h100*`, `*`). `from_s` and `to_s`
are cloud seconds after the fault was added. ValueError names the field that is invalid.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

ENDPOINTS = (
    "list",
    "get",
    "rename",
    "launch",
    "terminate",
    "restart",
    "instance_types",
    "regions",
    "images",
    "ssh_keys",
    "add_ssh_key",
    "delete_ssh_key",
    "file_systems",
    "create_file_system",
    "delete_file_system",
    "firewall_rulesets",
    "create_firewall_ruleset",
    "delete_firewall_ruleset",
)
"""Names of the API's calls in faults and in the call log."""

Break = Literal["reset", "timeout"]

InstanceFaultKind = Literal[
    "unhealthy", "preempt", "dead_cuda", "missing_gpu", "stuck_booting", "untagged", "shutdown"
]
INSTANCE_FAULTS: tuple[InstanceFaultKind, ...] = get_args(InstanceFaultKind)
AT_LAUNCH: frozenset[str] = frozenset({"dead_cuda", "missing_gpu", "stuck_booting", "untagged"})
"""Faults that an instance has from its launch on."""


def _check_failure(name: str, failure: int | str) -> None:
    if isinstance(failure, bool) or not (
        failure in ("reset", "timeout") or (isinstance(failure, int) and 400 <= failure <= 599)
    ):
        raise ValueError(f"{name}: {failure!r} is neither reset, timeout nor a status 400-599")


def _check_endpoint(endpoint: str) -> None:
    if endpoint != "*" and endpoint not in ENDPOINTS:
        raise ValueError(f"endpoint: {endpoint!r} is not * or one of {', '.join(ENDPOINTS)}")


def _check_span(from_s: float, to_s: float) -> None:
    if not 0 <= from_s <= to_s:
        raise ValueError(f"from_s: {from_s} must lie between 0 and to_s = {to_s}")


@dataclass(frozen=True)
class Stockout:
    """No capacity. With `advertised`, `/instance-types` still shows some."""

    kind: ClassVar[str] = "stockout"
    instance_type: str = "*"
    region: str = "*"
    from_s: float = 0.0
    to_s: float = math.inf
    advertised: bool = False

    def __post_init__(self) -> None:
        _check_span(self.from_s, self.to_s)


@dataclass(frozen=True)
class FailNext:
    """The next `n` calls of an endpoint fail: with an HTTP status, a reset or no answer.

    With `committed` the call takes effect all the same, a launch `commit_after_s` cloud seconds
    later. `body` comes with a status: the API's error envelope with `code`, a proxy's HTML
    page, or a truncated envelope.
    """

    kind: ClassVar[str] = "fail_next"
    endpoint: str = "launch"
    failure: int | Break = 504
    n: int = 1
    committed: bool = False
    commit_after_s: float = 0.0
    code: str = "global/internal-error"
    body: Literal["json", "html", "truncated"] = "json"

    def __post_init__(self) -> None:
        _check_endpoint(self.endpoint)
        _check_failure("failure", self.failure)
        if self.body not in ("json", "html", "truncated"):
            raise ValueError(f"body: {self.body!r} is not json, html or truncated")
        if self.n < 1:
            raise ValueError(f"n: {self.n} must be at least 1")
        if self.commit_after_s and self.endpoint != "launch":
            raise ValueError("commit_after_s: only a launch can take effect later")
        if self.commit_after_s < 0:
            raise ValueError(f"commit_after_s: {self.commit_after_s} is in the past")


@dataclass(frozen=True)
class Outage:
    """Every call of an endpoint (`*`: of all) fails for a while, without effect."""

    kind: ClassVar[str] = "outage"
    endpoint: str = "*"
    failure: int | Break = 503
    from_s: float = 0.0
    to_s: float = math.inf

    def __post_init__(self) -> None:
        _check_endpoint(self.endpoint)
        _check_failure("failure", self.failure)
        _check_span(self.from_s, self.to_s)


@dataclass(frozen=True)
class ListLag:
    """The list omits instances younger than `list_lag_s`; `GET /instances/{id}` has them."""

    kind: ClassVar[str] = "list_lag"
    list_lag_s: float = 10.0


@dataclass(frozen=True)
class StaleList:
    """The list is the one of `age_s` ago."""

    kind: ClassVar[str] = "stale_list"
    age_s: float = 10.0


@dataclass(frozen=True)
class Omit:
    """The next `n` lists omit the instances whose id matches."""

    kind: ClassVar[str] = "omit"
    instance_id: str = "*"
    n: int = 1


@dataclass(frozen=True)
class InstanceFault:
    """Something is wrong with an instance: `what`.

    With an `instance_id` that instance has it `after_s` from now; without, each of the next `n`
    launches that match type and region, `after_s` after it. `AT_LAUNCH` faults ignore `after_s`.
    """

    what: InstanceFaultKind
    instance_id: str | None = None
    instance_type: str = "*"
    region: str = "*"
    n: int = 1
    after_s: float = 0.0

    def __post_init__(self) -> None:
        if self.what not in INSTANCE_FAULTS:
            raise ValueError(f"what: {self.what!r} is not one of {', '.join(INSTANCE_FAULTS)}")
        if self.n < 1:
            raise ValueError(f"n: {self.n} must be at least 1")
        if self.after_s < 0:
            raise ValueError(f"after_s: {self.after_s} is in the past")

    @property
    def kind(self) -> str:
        """What is wrong, which is its `kind` in JSON."""
        return self.what


@dataclass(frozen=True)
class RevokeKey:
    """Calls with a key (None: with any) get 401 until the fault is removed."""

    kind: ClassVar[str] = "revoke_key"
    key: str | None = None


@dataclass(frozen=True)
class AccountInactive:
    """Every call gets 403 until the fault is removed."""

    kind: ClassVar[str] = "account_inactive"


Fault = (
    Stockout
    | FailNext
    | Outage
    | ListLag
    | StaleList
    | Omit
    | InstanceFault
    | RevokeKey
    | AccountInactive
)
"""Anything that `FaultRegistry.add` takes."""
