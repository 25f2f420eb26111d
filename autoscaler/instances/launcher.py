"""The launcher: intent first, one request, and never a second one by accident.

Lambda has no idempotency token, and an answer can be lost after the machine was made. So:
record the intent, send the launch once under a nonce, and when the answer is unclear
look for the nonce in the list of instances for as long as arrivals take. Found, the machine
is adopted; not found in the time the caller has, the intent is given up, and a machine that
arrives later is terminated as soon as it is seen.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from autoscaler.domain import Instance, LaunchRequest, Offering
from autoscaler.errors import (
    AmbiguousLaunchError,
    AutoscalerError,
    BudgetError,
    ConfigError,
    NotFoundError,
    UnavailableError,
    UserError,
)
from autoscaler.events import EventLog
from autoscaler.instances.journal import UNWANTED, Guard, Intent, Journal, Outcome
from autoscaler.instances.terminator import Terminator
from autoscaler.lambda_cloud.client import LambdaClient
from autoscaler.lambda_cloud.tags import (
    KIND_WORKER,
    NODE_KIND,
    instance_name,
    launch_tags,
    new_nonce,
    nonce_of,
)
from autoscaler.lambda_cloud.wire import check_launch
from autoscaler.money.budget import Deny
from autoscaler.money.ledger import Ledger

SETTLE_S = 90.0
"""A machine that was made is listed by then: lags of 30 s are known."""
LOOK_EVERY_S = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NodeSpec:
    """What a node is to be, wherever it will be. `ray_tags` are Ray's, as it gave them."""

    cluster: str
    ray_tags: Mapping[str, str]
    ssh_key_name: str
    image_family: str | None = None
    file_system_names: tuple[str, ...] = ()
    firewall_ruleset_ids: tuple[str, ...] = ()
    user_data: str | None = field(default=None, repr=False)

    def request(self, offering: Offering, nonce: str, created_s: float) -> LaunchRequest:
        """Raises ConfigError, naming the field, for what Lambda would refuse."""
        name = instance_name(self.cluster, self.ray_tags.get(NODE_KIND, KIND_WORKER), nonce)
        request = LaunchRequest(
            region=offering.region,
            instance_type=offering.instance_type,
            ssh_key_name=self.ssh_key_name,
            name=name,
            hostname=name,
            tags=launch_tags(self.ray_tags, self.cluster, nonce, created_s),
            image_family=self.image_family,
            file_system_names=self.file_system_names,
            firewall_ruleset_ids=self.firewall_ruleset_ids,
            user_data=self.user_data,
        )
        check_launch(request)
        return request


@dataclass(frozen=True, slots=True)
class Launched:
    """An instance that Lambda has made, which no list may show yet. `created_s` is when its launch
    was recorded, in epoch seconds."""

    instance_id: str
    nonce: str
    offering: Offering
    price_cents_per_hour: int | None
    created_s: float


class Launcher:
    """Thread-safe. `clock` is in epoch seconds."""

    def __init__(
        self,
        client: LambdaClient,
        journal: Journal,
        ledger: Ledger,
        terminator: Terminator,
        events: EventLog,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        make_nonce: Callable[[], str] = new_nonce,
    ) -> None:
        self._client = client
        self._journal = journal
        self._ledger = ledger
        self._terminator = terminator
        self._events = events
        self._clock = clock
        self._sleep = sleep
        self._make_nonce = make_nonce

    def launch(
        self,
        spec: NodeSpec,
        offering: Offering,
        price_cents_per_hour: int | None,
        guard: Guard,
        deadline_s: float,
    ) -> Launched:
        """Launches one machine, once. The caller has waited for the account's launch slot.

        Returns by `deadline_s` or the one answer that is under way then. Raises BudgetError
        if the guard denies (nothing was sent), Lambda's refusal if it surely made nothing,
        and AmbiguousLaunchError for an outcome that stayed unknown: then do not wait for a
        machine, one that appears is terminated by `Reconciler.reconcile`. Not idempotent:
        each call is a new intent.
        """
        created_s = self._clock()
        nonce = self._make_nonce()
        request = spec.request(offering, nonce, created_s)
        intent = Intent(nonce, spec.cluster, offering, price_cents_per_hour, created_s)
        decision = self._journal.begin(intent, guard)
        if isinstance(decision, Deny):
            raise BudgetError(f"{offering} is not launched: {decision.reason}")
        try:
            instance_id = self._client.launch(request)
        except AutoscalerError as error:
            if error.not_executed:
                self.settle(intent, Outcome.REFUSED, detail=str(error), code=error.code)
                if isinstance(error, NotFoundError):  # a key, type, region or file system
                    raise ConfigError(error.message, error.code, error.status, True) from error
                raise
            return self._resolve(intent, error, deadline_s)
        return self.adopt(intent, instance_id)

    def adopt(self, intent: Intent, instance_id: str) -> Launched:
        """The instance is the intent's: it bills, and is in use. Idempotent.

        Raises AmbiguousLaunchError, and terminates the instance, where the intent was given up
        meanwhile; StateError.
        """
        # The charge first: between the two steps the machine counts twice, never not at all.
        self._ledger.start(
            intent.cluster,
            instance_id,
            intent.offering,
            intent.price_cents_per_hour,
            intent.created_s,
        )
        adopted = self._journal.settle(
            intent.nonce, Outcome.ADOPTED, self._clock(), instance_id=instance_id
        )
        if not adopted and self._is_unwanted(intent.nonce):
            self.settle(intent, Outcome.COLLECTED, instance_id=instance_id)
            self._terminator.terminate([instance_id], "its launch was given up")
            raise AmbiguousLaunchError(
                f"{intent.offering}: given up while the launch was under way"
            )
        if adopted:
            self._write_event("launched", intent, instance=instance_id)
        return Launched(
            instance_id,
            intent.nonce,
            intent.offering,
            intent.price_cents_per_hour,
            intent.created_s,
        )

    def settle(
        self,
        intent: Intent,
        outcome: Outcome,
        *,
        instance_id: str | None = None,
        detail: str = "",
        code: str | None = None,
    ) -> None:
        """Moves an intent on, where its outcome allows it; else does nothing. StateError."""
        now_s = self._clock()
        if self._journal.settle(
            intent.nonce, outcome, now_s, instance_id=instance_id, detail=detail
        ):
            fields = {"instance": instance_id, "code": code, "error": detail or None}
            self._write_event(f"launch-{outcome}", intent, **fields)

    def _resolve(self, intent: Intent, error: AutoscalerError, deadline_s: float) -> Launched:
        self._write_event("launch-ambiguous", intent, code=error.code, error=str(error))
        until_s = min(deadline_s, self._clock() + SETTLE_S)
        # A refused key or a wrong address will not show the instance either.
        while not isinstance(error, UserError):
            if found := self._find(intent.nonce):
                return self.adopt(intent, found.id)
            now_s = self._clock()
            if now_s >= until_s:
                break
            self._sleep(min(LOOK_EVERY_S, until_s - now_s))
        self.settle(intent, Outcome.GIVEN_UP, detail=str(error))
        if isinstance(error, UserError):
            raise error
        raise AmbiguousLaunchError(
            f"{intent.offering}: launch outcome unknown ({error}); the instance will be "
            "terminated if it appears",
            error.code,
            error.status,
        )

    def _find(self, nonce: str) -> Instance | None:
        try:
            instances = self._client.list_instances()
        except UnavailableError:
            return None
        return next((found for found in instances if nonce_of(found) == nonce), None)

    def _is_unwanted(self, nonce: str) -> bool:
        """Not adopted by us may also mean: adopted already, by a process that saw it first."""
        intent = self._journal.get(nonce)
        return intent is not None and intent.outcome in UNWANTED

    def _write_event(self, event: str, intent: Intent, **fields: str | None) -> None:
        self._events.write(
            event,
            cluster=intent.cluster,
            type=intent.offering.instance_type,
            region=intent.offering.region,
            nonce=intent.nonce,
            **fields,
        )
