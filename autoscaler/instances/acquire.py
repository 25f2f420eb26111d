"""Acquiring one node: launches in the best offering that is available and affordable.

`Offerings` decides which offering is next, by what the API advertises, by what failed lately
and by the budget; `Acquirer` launches there, and takes the next where Lambda has no capacity.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from autoscaler.domain import Charge, Offering
from autoscaler.errors import (
    AccountError,
    AuthError,
    AutoscalerError,
    BudgetError,
    CapacityError,
    QuotaError,
    RateLimitedError,
)
from autoscaler.events import EventLog, Field, utc
from autoscaler.instances.journal import Guard, Journal
from autoscaler.instances.launcher import Launched, Launcher, NodeSpec
from autoscaler.instances.unavailable_offerings import (
    EVERYWHERE,
    Reason,
    UnavailableOffering,
    UnavailableOfferings,
    retry_s,
)
from autoscaler.lambda_cloud.catalog import Catalog, CatalogSource
from autoscaler.lambda_cloud.client import LambdaClient
from autoscaler.money.budget import Caps, Decision, Deny, burn_cents_per_hour, decide, spent_cents

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """Where a node may be: types in order of preference, regions in order, and what it may cost."""

    instance_types: Sequence[str]
    regions: Sequence[str]
    caps: Caps


@dataclass(frozen=True, slots=True)
class Plan:
    """`order` is to be tried from the front; `unavailable` says when each other may be, and why."""

    order: tuple[Offering, ...]
    unavailable: Mapping[Offering, tuple[float, Reason]]

    @property
    def next_try_s(self) -> float | None:
        """When the first offering is available; None if one is now, or there is none."""
        if self.order or not self.unavailable:
            return None
        return min(at_s for at_s, _ in self.unavailable.values())


def plan(
    instance_types: Sequence[str],
    regions: Sequence[str],
    advertised: AbstractSet[Offering] | None,
    unavailable: Iterable[UnavailableOffering],
    now_s: float,
) -> Plan:
    """Orders the offerings of one node type: advertised ones first, then by type, then by region.

    `advertised=None` means that nothing is known, and the given order stands. Pure.
    """
    known = list(unavailable)
    order: list[Offering] = []
    refused: dict[Offering, tuple[float, Reason]] = {}
    for offering in dict.fromkeys(Offering(name, r) for name in instance_types for r in regions):
        is_advertised = advertised is not None and offering in advertised
        waits = [
            (retry_s(u, advertised=is_advertised), u.reason) for u in known if u.covers(offering)
        ]
        longest = max(waits, key=lambda wait: wait[0], default=None)
        if longest is None or longest[0] <= now_s:
            order.append(offering)
        else:
            refused[offering] = longest
    if advertised is not None:
        order.sort(key=lambda offering: offering not in advertised)
    return Plan(tuple(order), refused)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An offering to launch now. `guard` decides again, with the launch's intent, whether its
    price may be paid."""

    offering: Offering
    price_cents_per_hour: int | None
    advertised: bool
    guard: Guard


@dataclass(frozen=True)
class Offerings:
    """What one more node of a cluster may be, after one look at the catalog."""

    cluster: str
    choice: Choice
    catalog: Catalog
    unavailable: UnavailableOfferings
    journal: Journal
    events: EventLog
    clock: Callable[[], float]

    def next(self, *, claim: bool = False) -> Candidate:
        """The best one that is available and may be paid; with `claim`, its probe is this
        caller's. Sends nothing.

        Raises BudgetError where none that is available may be paid, else CapacityError with
        the next try; StateError.
        """
        found, now_s = self._plan(), self.clock()
        charges = self.journal.commitments(self.cluster)
        denials: dict[Offering, str] = {}
        for candidate in map(self._candidate, found.order):
            offering, decision = candidate.offering, candidate.guard(charges)
            if isinstance(decision, Deny):
                denials[offering] = decision.reason
            elif not claim or self.unavailable.claim_probe(
                offering, now_s, advertised=candidate.advertised
            ):
                return candidate
        if denials and len(denials) == len(found.order):
            raise self._budget_error(denials)
        raise self._capacity_error(found)

    def capacity_error(self) -> CapacityError:
        """As of now, for a caller whose time is up."""
        return self._capacity_error(self._plan())

    def _plan(self) -> Plan:
        choice, advertised = self.choice, self.catalog.advertised
        unavailable = self.unavailable.all()
        return plan(choice.instance_types, choice.regions, advertised, unavailable, self.clock())

    def _candidate(self, offering: Offering) -> Candidate:
        price = self.catalog.price_cents_per_hour(offering.instance_type)

        def guard(charges: list[Charge]) -> Decision:
            spent = spent_cents(charges, self.clock())
            return decide(self.choice.caps, spent, burn_cents_per_hour(charges), price)

        return Candidate(offering, price, self.catalog.is_advertised(offering), guard)

    def _budget_error(self, denials: Mapping[Offering, str]) -> BudgetError:
        offering, reason = next(iter(denials.items()))
        others = f" (nor {len(denials) - 1} other offerings)" if len(denials) > 1 else ""
        self.events.write_change(
            f"budget {self.cluster}",
            "launch-denied",
            cluster=self.cluster,
            type=offering.instance_type,
            region=offering.region,
            reason=reason,
        )
        return BudgetError(f"{offering} is not launched{others}: {reason}")

    def _capacity_error(self, found: Plan) -> CapacityError:
        names, regions = ", ".join(self.choice.instance_types), ", ".join(self.choice.regions)
        text = f"no capacity for {names or 'no types'} in {regions or 'no regions'}"
        if found.unavailable:
            offering, (at_s, reason) = min(found.unavailable.items(), key=lambda item: item[1][0])
            text += f": {offering}: {reason.value}; next try {utc(at_s)}"
        error = CapacityError(text)
        error.next_try_s = found.next_try_s
        return error


class Acquirer:
    """Thread-safe. `clock` is in epoch seconds."""

    def __init__(
        self,
        client: LambdaClient,
        catalog: CatalogSource,
        unavailable: UnavailableOfferings,
        journal: Journal,
        launcher: Launcher,
        events: EventLog,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._catalog = catalog
        self._unavailable = unavailable
        self._journal = journal
        self._launcher = launcher
        self._events = events
        self._clock = clock

    def acquire(self, spec: NodeSpec, choice: Choice, deadline_s: float) -> Launched:
        """Launches one node, trying offering after offering until `deadline_s`.

        Raises CapacityError at once when every offering is unavailable, or when the time is up
        (with the next try); BudgetError when what is available may not be paid; QuotaError,
        AuthError, AccountError and ConfigError as Lambda says; AmbiguousLaunchError when an
        outcome stayed unknown. Not idempotent: each success is one more machine.
        """
        while True:
            offerings = self._look(spec.cluster, choice)
            offerings.next()
            self._client.wait_for_launch_slot(deadline_s)
            # The slot took up to a quarter of a minute: choose again by what others have
            # learned. No request may come between the slot and the launch.
            candidate = offerings.next(claim=True)
            launched = self._try(spec, candidate, deadline_s)
            if launched is not None:
                return launched
            if self._clock() >= deadline_s:
                raise offerings.capacity_error()

    def _look(self, cluster: str, choice: Choice) -> Offerings:
        """The one request before the launch slot, if the catalog is too old."""
        return Offerings(
            cluster,
            choice,
            self._catalog.current(),
            self._unavailable,
            self._journal,
            self._events,
            self._clock,
        )

    def _try(self, spec: NodeSpec, candidate: Candidate, deadline_s: float) -> Launched | None:
        """None if Lambda refused this offering and the next may be tried."""
        offering, price = candidate.offering, candidate.price_cents_per_hour
        try:
            launched = self._launcher.launch(spec, offering, price, candidate.guard, deadline_s)
        except CapacityError as error:
            self._mark_unavailable(spec, offering, Reason.STOCKOUT, error, candidate.advertised)
            return None
        except QuotaError as error:
            self._mark_unavailable(spec, EVERYWHERE, Reason.QUOTA, error)
            raise
        except (AuthError, AccountError) as error:
            self._mark_unavailable(spec, EVERYWHERE, Reason.REFUSED_KEY, error)
            raise
        except RateLimitedError as error:
            # Not executed, and the rate limit makes the next slot wait for it.
            self._unavailable.release_probe(offering)
            next_try_s = error.next_try_s or self._clock()
            self._write_event("launch-rate-limited", spec, offering, next_try_s, code=error.code)
            return None
        except AutoscalerError:
            self._unavailable.release_probe(offering)
            raise
        self._unavailable.mark_available(offering)
        return launched

    def _mark_unavailable(
        self,
        spec: NodeSpec,
        offering: Offering,
        reason: Reason,
        error: AutoscalerError,
        advertised: bool = False,
    ) -> None:
        marked = self._unavailable.mark_unavailable(
            offering, reason, self._clock(), advertised=advertised
        )
        self._write_event(
            "offering-unavailable",
            spec,
            offering,
            marked.next_try_s,
            reason=reason.value,
            code=error.code,
            advertised=advertised,
        )

    def _write_event(
        self, event: str, spec: NodeSpec, offering: Offering, next_try_s: float, **fields: Field
    ) -> None:
        """One refusal of Lambda's, for `raylambda status` and for Ray's own log."""
        self._events.write(
            event,
            cluster=spec.cluster,
            type=offering.instance_type,
            region=offering.region,
            **fields,
            next_try=utc(next_try_s),
        )
        why = fields.get("reason", "the account's rate")
        code = fields["code"] or "no code"
        logger.warning("%s: %s (%s); next try %s", offering, why, code, utc(next_try_s))
