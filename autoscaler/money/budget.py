"""The budget: whether one more machine may be launched. Pure, in integer cents, rounded up.

Lambda bills by the started minute. Both caps are checked at launch:

    burn + price                                <= max_price_cents_per_hour
    spent so far + one hour of (burn + price)   <= max_total_cents

An unknown price denies a launch; it ends nothing.
`seconds_left` says for how long what runs still fits the total, for whoever ends it then;
`upper_bound` what a lost head's workers may have cost.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import TypeAlias

from autoscaler.domain import Charge

FINAL_REPORT_S = 120.0
"""A head's report this shortly before its end is complete: its launches had been stopped."""


@dataclass(frozen=True, slots=True)
class Caps:
    """The user's limits; None is none."""

    max_price_cents_per_hour: int | None = None
    max_total_cents: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_price_cents_per_hour", "max_total_cents"):
            value: object = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{name}: {value!r} is not a whole number of cents from 0 upwards")


@dataclass(frozen=True, slots=True)
class Allow:
    """The machine may be launched."""

    spent_cents: int | None
    burn_cents_per_hour: int
    """With the new machine."""


@dataclass(frozen=True, slots=True)
class Deny:
    """The machine may not be launched; `reason` goes to the user."""

    reason: str


Decision: TypeAlias = Allow | Deny


def minutes_billed(charge: Charge, now_s: float) -> int:
    """Started minutes until `now_s` or the charge's end; a machine costs at least one."""
    end_s = now_s if charge.ended_s is None else charge.ended_s
    return max(1, ceil((end_s - charge.started_s) / 60))


def spent_cents(charges: Iterable[Charge], now_s: float) -> int | None:
    """Spend until `now_s`, each machine rounded up to a cent; None if a price is unknown."""
    total = 0
    for charge in charges:
        if charge.price_cents_per_hour is None:
            return None
        total += -(-minutes_billed(charge, now_s) * charge.price_cents_per_hour // 60)
    return total


def burn_cents_per_hour(charges: Iterable[Charge]) -> int | None:
    """What bills now, per hour; None if a price is unknown."""
    total = 0
    for charge in charges:
        if charge.ended_s is not None:
            continue
        if charge.price_cents_per_hour is None:
            return None
        total += charge.price_cents_per_hour
    return total


def decide(
    caps: Caps, spent: int | None, burn: int | None, price_cents_per_hour: int | None
) -> Decision:
    """`spent` in cents, `burn` in cents an hour, without the candidate; None is unknown."""
    if price_cents_per_hour is None:
        return Deny("its price is unknown")
    if burn is None:
        return Deny("the price of something that runs is unknown")
    new_burn = burn + price_cents_per_hour
    hourly, total = caps.max_price_cents_per_hour, caps.max_total_cents
    if hourly is not None and new_burn > hourly:
        return Deny(
            f"it costs {dollars(price_cents_per_hour)}/h, what runs costs {dollars(burn)}/h, and "
            f"max_price_cents_per_hour allows {dollars(hourly)}/h"
        )
    if total is not None and spent is None:
        return Deny(
            "what this run has cost is unknown, and max_total_cents allows " + dollars(total)
        )
    if total is not None and spent is not None and spent + new_burn > total:
        return Deny(
            f"{dollars(spent)} are spent, one hour with it costs {dollars(new_burn)}, and "
            f"max_total_cents allows {dollars(total)}"
        )
    return Allow(spent, new_burn)


def seconds_left(caps: Caps, charges: list[Charge], now_s: float) -> float | None:
    """How long what runs may go on until the next started minute would pass the total cap.

    0 when it must end now; None where there is no cap, or nothing runs. Every price must be
    known: ValueError.
    """
    running = [charge for charge in charges if charge.ended_s is None]
    if caps.max_total_cents is None or not running:
        return None
    if spent_cents(charges, now_s) is None:
        raise ValueError("a price is unknown")
    low, high = 0, 1
    if not _fits(caps.max_total_cents, charges, now_s):
        return 0.0
    # Spend is a staircase of the charges' own minutes: search the last second that fits.
    while _fits(caps.max_total_cents, charges, now_s + high) and high < 10**9:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if _fits(caps.max_total_cents, charges, now_s + middle):
            low = middle
        else:
            high = middle
    return float(low)


def _fits(cap_cents: int, charges: list[Charge], now_s: float) -> bool:
    spent = spent_cents(charges, now_s)
    return spent is not None and spent <= cap_cents


@dataclass(frozen=True, slots=True)
class UnreportedInterval:
    """From a head's last report until it was known to be gone, with its caps (None is none).

    `max_cents` caps the whole run until `until_s`, not this interval alone.
    """

    from_s: float
    until_s: float
    max_cents_per_hour: int | None
    max_cents: int | None


def upper_bound(interval: UnreportedInterval, known: Iterable[Charge]) -> Charge:
    """Upper bound of what unreported machines have cost in the interval, as one charge.

    `known` are the run's other charges: what they take of the caps is not counted twice. The
    price is None where no cap bounds it.
    """
    known = list(known)
    bounds: list[int] = []
    minutes = minutes_billed(Charge(None, interval.from_s, interval.until_s), interval.until_s)
    if interval.max_cents_per_hour is not None:
        # One minute more, since each machine's last one counts whole.
        allowed_cents = -(-interval.max_cents_per_hour * (minutes + 1) // 60)
        bounds.append(allowed_cents - _known_within(known, interval))
    if interval.max_cents is not None:
        run_cents = spent_cents(_until(known, interval.until_s), interval.until_s)
        bounds.append(interval.max_cents - (run_cents or 0))
    price = -(-max(0, min(bounds)) * 60 // minutes) if bounds else None
    return Charge(price, interval.from_s, interval.until_s)


def _known_within(charges: Iterable[Charge], interval: UnreportedInterval) -> int:
    """What the known machines have taken of the hourly cap, in whole cents at the least."""
    total = 0
    for c in charges:
        until_s = min(interval.until_s if c.ended_s is None else c.ended_s, interval.until_s)
        seconds = until_s - max(c.started_s, interval.from_s)
        total += int(max(0.0, seconds) * (c.price_cents_per_hour or 0) / 3600)
    return total


def _until(charges: Iterable[Charge], at_s: float) -> list[Charge]:
    return [
        Charge(
            c.price_cents_per_hour, c.started_s, at_s if c.ended_s is None else min(c.ended_s, at_s)
        )
        for c in charges
        if c.started_s < at_s
    ]


def cost_in_words(charges: Iterable[Charge], unreported: Iterable[Charge], now_s: float) -> str:
    """Such as "about $4.21, and at most $9.00 more: ..."; `unreported` as `Ledger.unreported`."""
    spent = spent_cents(charges, now_s)
    words = "an unknown sum" if spent is None else f"about {dollars(spent)}"
    unreported = [c for c in unreported if (c.ended_s or now_s) - c.started_s > FINAL_REPORT_S]
    if unreported:
        more = spent_cents(unreported, now_s)
        bound = "an unknown sum" if more is None else f"at most {dollars(more)}"
        words += f", and {bound} more: a head ended before it reported what its workers cost"
    return words


def dollars(cents: int) -> str:
    return f"${cents / 100:,.2f}"
