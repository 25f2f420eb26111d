"""One more node of a node type: the best place that is open, affordable, and says yes.

This is where the parts meet: the catalog says what is advertised, the stockouts what is
closed, the budget what may be spent, and the launcher asks Lambda once for each place.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
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
from autoscaler.instances import placement
from autoscaler.instances.journal import Guard, Journal
from autoscaler.instances.launcher import Launched, Launcher, NodeSpec
from autoscaler.instances.placement import ANYWHERE, Reason
from autoscaler.instances.stockouts import Stockouts
from autoscaler.lambda_cloud.catalog import Catalog, CatalogSource
from autoscaler.lambda_cloud.client import LambdaClient
from autoscaler.money.budget import Caps, Decision, Deny, burn_cents_per_hour, decide, spent_cents

EVERYWHERE = Offering(ANYWHERE, ANYWHERE)
LOOK_AGAIN_S = 10.0
"""While waiting for capacity: how often to see what is advertised."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """Where a node may be: types in order of preference, regions in order, and what it may cost."""

    candidates: Sequence[str]
    regions: Sequence[str]
    caps: Caps


class Acquirer:
    """Thread-safe. `clock` is in epoch seconds."""

    def __init__(
        self,
        client: LambdaClient,
        catalog: CatalogSource,
        stockouts: Stockouts,
        journal: Journal,
        launcher: Launcher,
        events: EventLog,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._catalog = catalog
        self._stockouts = stockouts
        self._journal = journal
        self._launcher = launcher
        self._events = events
        self._clock = clock
        self._sleep = sleep

    def acquire(
        self, spec: NodeSpec, choice: Choice, deadline_s: float, *, patient: bool = False
    ) -> Launched:
        """Launches one node, trying place after place until `deadline_s`.

        Raises CapacityError when every place is closed or the time is up (with the next try),
        at once unless `patient`; BudgetError when what is open may not be paid; QuotaError,
        AuthError, AccountError and ConfigError as Lambda says; AmbiguousLaunchError when an
        outcome stayed unknown.
        """
        while True:
            catalog = self._catalog.current()
            try:
                self._pick(spec, choice, catalog, claim=False)
                self._client.wait_for_launch_slot(deadline_s)
                # The slot took up to a quarter of a minute: choose again by what others have
                # learned. No request may come between the slot and the launch.
                offering = self._pick(spec, choice, catalog, claim=True)
            except CapacityError as error:
                if not patient or self._clock() + LOOK_AGAIN_S > deadline_s:
                    raise
                opens_s = (error.next_try_s or 0.0) - self._clock()
                self._sleep(min(max(opens_s, 1.0), LOOK_AGAIN_S))
                continue
            launched = self._try(spec, choice, offering, catalog, deadline_s)
            if launched is not None:
                return launched
            if self._clock() >= deadline_s:
                raise self._capacity_error(choice, self._plan(choice, catalog))

    def _plan(self, choice: Choice, catalog: Catalog) -> placement.Plan:
        return placement.plan(
            choice.candidates,
            choice.regions,
            catalog.advertised,
            self._stockouts.all(),
            self._clock(),
        )

    def _pick(self, spec: NodeSpec, choice: Choice, catalog: Catalog, *, claim: bool) -> Offering:
        """The first open place that may be paid; with `claim`, the right to launch there."""
        plan = self._plan(choice, catalog)
        charges = self._journal.commitments(spec.cluster)
        denials: dict[Offering, str] = {}
        for offering in plan.order:
            decision = self._guard(choice.caps, catalog, offering)(charges)
            if isinstance(decision, Deny):
                denials[offering] = decision.reason
                continue
            advertised = catalog.is_advertised(offering)
            if not claim or self._stockouts.claim(offering, self._clock(), advertised=advertised):
                return offering
        if denials and len(denials) == len(plan.order):
            raise self._budget_error(spec, denials)
        raise self._capacity_error(choice, plan)

    def _guard(self, caps: Caps, catalog: Catalog, offering: Offering) -> Guard:
        price = catalog.price_cents_per_hour(offering.instance_type)

        def guard(charges: list[Charge]) -> Decision:
            spent = spent_cents(charges, self._clock())
            return decide(caps, spent, burn_cents_per_hour(charges), price)

        return guard

    def _try(
        self,
        spec: NodeSpec,
        choice: Choice,
        offering: Offering,
        catalog: Catalog,
        deadline_s: float,
    ) -> Launched | None:
        """None if this place refused and the next may be tried."""
        price = catalog.price_cents_per_hour(offering.instance_type)
        guard = self._guard(choice.caps, catalog, offering)
        try:
            launched = self._launcher.launch(spec, offering, price, guard, deadline_s)
        except CapacityError as error:
            self._close(spec, offering, Reason.STOCKOUT, error, catalog.is_advertised(offering))
            return None
        except QuotaError as error:
            self._close(spec, EVERYWHERE, Reason.QUOTA, error)
            raise
        except (AuthError, AccountError) as error:
            self._close(spec, EVERYWHERE, Reason.REFUSED_KEY, error)
            raise
        except RateLimitedError as error:
            # Not executed, and the pacer makes the next slot wait for it.
            self._stockouts.release(offering)
            next_try_s = error.next_try_s or self._clock()
            self._say("launch-rate-limited", spec, offering, next_try_s, code=error.code)
            return None
        except AutoscalerError:
            self._stockouts.release(offering)
            raise
        self._stockouts.reopen(offering)
        return launched

    def _close(
        self,
        spec: NodeSpec,
        offering: Offering,
        reason: Reason,
        error: AutoscalerError,
        advertised: bool = False,
    ) -> None:
        closure = self._stockouts.close(offering, reason, self._clock(), advertised=advertised)
        self._say(
            "place-closed",
            spec,
            offering,
            closure.next_try_s,
            reason=reason.value,
            code=error.code,
            advertised=advertised,
        )

    def _say(
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

    def _budget_error(self, spec: NodeSpec, denials: Mapping[Offering, str]) -> BudgetError:
        offering, reason = next(iter(denials.items()))
        others = f" (nor {len(denials) - 1} other places)" if len(denials) > 1 else ""
        self._events.write_change(
            f"budget {spec.cluster}",
            "launch-denied",
            cluster=spec.cluster,
            type=offering.instance_type,
            region=offering.region,
            reason=reason,
        )
        return BudgetError(f"{offering} is not launched{others}: {reason}")

    def _capacity_error(self, choice: Choice, plan: placement.Plan) -> CapacityError:
        names, regions = ", ".join(choice.candidates), ", ".join(choice.regions)
        text = f"no machine now among {names or 'no types'} in {regions or 'no regions'}"
        if plan.refusals:
            first = min(plan.refusals, key=lambda refusal: refusal.next_try_s)
            text += f": {first.offering}: {first.reason.value}; next try {utc(first.next_try_s)}"
        error = CapacityError(text)
        error.next_try_s = plan.next_try_s
        return error
