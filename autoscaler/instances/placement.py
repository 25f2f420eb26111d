"""Which place to try next: pure, no clock, no I/O.

A node type names its instance types in order of preference; the cluster names its regions.
A place (type, region) that refused is closed for a while that doubles with each refusal, and
then half-open: one launch tries it, all others keep away until that one has an answer.
What the API advertises is a hint. It is right more often than not, so advertised places go
first, and a place that becomes advertised while closed may be tried early.
"""

import enum
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from autoscaler.domain import Offering

ANYWHERE = "*"
"""In a closure's place: every type, every region."""


class Reason(enum.StrEnum):
    STOCKOUT = "no capacity"
    SUSPECT = "failed its GPU or network check"
    QUOTA = "the account's quota is used up"
    REFUSED_KEY = "Lambda refuses the API key or the account"
    ENDING = "the cluster is ending"


@dataclass(frozen=True, slots=True)
class BackOff:
    first_s: float
    most_s: float
    lease_s: float = 120.0
    """How long the one launch into a half-open place keeps the others away."""


BACK_OFF = {
    # Openings last about 84 s and 27 % of launches are refused though advertised: come back
    # while the opening may last, and then once a minute, so that none passes unseen. The rate
    # of launches bounds what many closed places ask for together.
    Reason.STOCKOUT: BackOff(30.0, 60.0),
    # A machine with dead CUDA goes back to the pool and is handed out again for some time; a
    # suspicion is tested by a whole boot and its checks, not by the launch's answer.
    Reason.SUSPECT: BackOff(600.0, 3600.0, lease_s=1800.0),
    Reason.QUOTA: BackOff(300.0, 1800.0),
    Reason.REFUSED_KEY: BackOff(60.0, 600.0),
    # Longer than the end of a cluster may take.
    Reason.ENDING: BackOff(1800.0, 1800.0),
}
MIN_REOPEN_S = 24.0
"""A newly advertised place is tried no sooner after its refusal: advertising may flicker."""
FORGET_S = 1800.0
"""Refusals this long past their closure no longer count as a series."""


@dataclass(frozen=True, slots=True)
class Closure:
    """One place that is to be left alone. `advertised`: whether it was when it was closed."""

    offering: Offering
    reason: Reason
    strikes: int
    closed_s: float
    next_try_s: float
    advertised: bool = False
    probe_until_s: float | None = None

    def covers(self, offering: Offering) -> bool:
        mine = self.offering
        return mine.instance_type in (ANYWHERE, offering.instance_type) and mine.region in (
            ANYWHERE,
            offering.region,
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a place is not tried now, for display."""

    offering: Offering
    reason: Reason
    next_try_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """`order` is to be tried from the front; `refusals` are the closed places."""

    order: tuple[Offering, ...]
    refusals: tuple[Refusal, ...]

    @property
    def next_try_s(self) -> float | None:
        """When the first closed place opens; None if a place is open now, or there is none."""
        if self.order or not self.refusals:
            return None
        return min(refusal.next_try_s for refusal in self.refusals)


@dataclass(frozen=True, slots=True)
class RegionScore:
    """How well a region could hold a cluster now. Higher sorts first; ties keep the order given."""

    region: str
    head_advertised: bool
    worker_groups_advertised: int
    worker_groups: int


def close(
    previous: Closure | None, offering: Offering, reason: Reason, now_s: float, *, advertised: bool
) -> Closure:
    """The closure after one more refusal; `previous` is the same place's, same reason's."""
    strikes = 1
    if previous is not None and now_s < previous.next_try_s + FORGET_S:
        strikes = previous.strikes + 1
    back_off = BACK_OFF[reason]
    # The exponent is bounded: a float overflows after a thousand strikes.
    pause_s = min(back_off.first_s * 2.0 ** min(strikes - 1, 30), back_off.most_s)
    return Closure(offering, reason, strikes, now_s, now_s + pause_s, advertised)


def reopens_s(closure: Closure, *, advertised: bool) -> float:
    """When one launch may try the place again."""
    opens_s = closure.next_try_s
    if closure.reason is Reason.STOCKOUT and advertised and not closure.advertised:
        opens_s = min(opens_s, closure.closed_s + MIN_REOPEN_S)
    if closure.probe_until_s is not None:
        opens_s = max(opens_s, closure.probe_until_s)
    return opens_s


def lend_probe(closure: Closure, now_s: float) -> Closure:
    """The closure while one launch tries its place."""
    return replace(closure, probe_until_s=now_s + BACK_OFF[closure.reason].lease_s)


def plan(
    candidates: Sequence[str],
    regions: Sequence[str],
    advertised: AbstractSet[Offering] | None,
    closures: Iterable[Closure],
    now_s: float,
) -> Plan:
    """Orders the places of one node type: advertised ones first, then by type, then by region.

    `advertised=None` means that nothing is known, and the given order stands.
    """
    offerings = [Offering(name, region) for name in candidates for region in regions]
    closures = list(closures)
    order: list[Offering] = []
    refusals: list[Refusal] = []
    for offering in dict.fromkeys(offerings):
        is_advertised = advertised is not None and offering in advertised
        worst = max(
            (closure for closure in closures if closure.covers(offering)),
            key=lambda closure: reopens_s(closure, advertised=is_advertised),
            default=None,
        )
        opens_s = now_s if worst is None else reopens_s(worst, advertised=is_advertised)
        if worst is None or opens_s <= now_s:
            order.append(offering)
        else:
            refusals.append(Refusal(offering, worst.reason, opens_s))
    if advertised is not None:
        order.sort(key=lambda offering: offering not in advertised)
    return Plan(tuple(order), tuple(refusals))


def rank_regions(
    head_candidates: Sequence[str],
    worker_groups: Sequence[Sequence[str]],
    regions: Sequence[str],
    is_open: Callable[[Offering], bool],
) -> tuple[RegionScore, ...]:
    """Regions for a whole cluster, best first: there is no private network between regions.

    A region comes first if the head can be there and the most worker groups (each a list of
    candidate types) can, too. `is_open` says whether a place is advertised and not closed.
    """

    def score(region: str) -> RegionScore:
        def can(names: Sequence[str]) -> bool:
            return any(is_open(Offering(name, region)) for name in names)

        groups = sum(can(group) for group in worker_groups)
        return RegionScore(region, can(head_candidates), groups, len(worker_groups))

    scores = [score(region) for region in dict.fromkeys(regions)]
    scores.sort(key=lambda s: (s.head_advertised, s.worker_groups_advertised), reverse=True)
    return tuple(scores)
