"""A launch that is never repeated by accident.

Lambda has no idempotency token, and an answer can be lost after the machine was made. So:
write the intent down, send the launch once under a nonce, and when the answer is unclear
look for the nonce in the list of instances for as long as arrivals take. Found, the machine
is adopted; not found in the time the caller has, the intent is given up, and a machine that
arrives later is terminated as soon as it is seen.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from autoscaler.domain import Instance, LaunchRequest, Offering
from autoscaler.errors import (
    AmbiguousLaunchError,
    AutoscalerError,
    BudgetError,
    ConfigError,
    NotFoundError,
    StateError,
    UnavailableError,
    UserError,
)
from autoscaler.events import EventLog
from autoscaler.instances.journal import UNWANTED, Guard, Intent, Journal, Outcome, check_account
from autoscaler.instances.terminator import Terminator
from autoscaler.lambda_cloud.catalog import with_price
from autoscaler.lambda_cloud.client import LambdaClient
from autoscaler.lambda_cloud.launch_request import check_launch
from autoscaler.lambda_cloud.tags import (
    KIND_WORKER,
    NODE_KIND,
    belongs_to,
    instance_name,
    launch_tags,
    new_nonce,
    nonce_of,
)
from autoscaler.money.budget import Deny
from autoscaler.money.ledger import Ledger

SETTLE_S = 90.0
"""A machine that was made is listed by then: lags of 30 s are known."""
ARRIVAL_S = 600.0
"""An intent that was given up counts as money that may be spent for this long."""
IN_FLIGHT_S = 90.0
"""A launch that has no answer by then has no sender any more (an attempt is bounded by 50 s)."""
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
        machine, one that comes will be collected by `reconcile`.
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
                self._settle(intent, Outcome.REFUSED, detail=str(error), code=error.code)
                if isinstance(error, NotFoundError):  # a key, type, region or file system
                    raise ConfigError(error.message, error.code, error.status, True) from error
                raise
            return self._resolve(intent, error, deadline_s)
        return self._adopt(intent, instance_id)

    def reconcile(self, cluster: str, instances: Iterable[Instance]) -> tuple[str, ...]:
        """Settles old intents against a complete, fresh list. Returns the ids it terminated.

        For every list that is read: it adopts what a process left that died in the middle of
        a launch, ends late arrivals of launches that were given up, and keeps the ledger.
        Sends nothing when there is nothing to end. Raises AuthError, before it does anything,
        where the key is another account's than the machines', and StateError where what was
        intended cannot be read.
        """
        instances = list(instances)
        check_account(self._ledger, self._journal, cluster, instances)
        by_nonce: dict[str, list[Instance]] = {}
        for instance in instances:
            if nonce := nonce_of(instance):
                by_nonce.setdefault(nonce, []).append(instance)
        now_s = self._clock()
        watched = self._journal.watched(cluster)
        mine = [with_price(i) for i in instances if belongs_to(i, cluster)]
        try:
            for intent in watched:
                self._age(intent, by_nonce.get(intent.nonce), now_s)
            self._ledger.observe(cluster, mine, now_s)
        except StateError as error:  # a full disk: what is to be ended is ended all the same
            logger.warning("what the list shows is not written down: %s", error)
        return self._collect([i for i in watched if i.outcome in UNWANTED], by_nonce)

    def _age(self, intent: Intent, arrived: list[Instance] | None, now_s: float) -> None:
        if intent.outcome is Outcome.OPEN and now_s - intent.created_s > IN_FLIGHT_S:
            if arrived:
                self._adopt(intent, arrived[0].id)
            elif now_s - intent.created_s > IN_FLIGHT_S + SETTLE_S:
                self._settle(intent, Outcome.GIVEN_UP, detail="its process ended")
        elif intent.outcome is Outcome.GIVEN_UP and not arrived:
            if now_s - (intent.settled_s or now_s) > ARRIVAL_S:
                self._settle(intent, Outcome.ABSENT)

    def give_up(self, cluster: str) -> None:
        """The cluster is to end: nobody waits for its launches any more.

        Launches that may still be in flight stay open until they cannot be.
        """
        now_s = self._clock()
        for intent in self._journal.unresolved(cluster):
            if intent.outcome is Outcome.OPEN and now_s - intent.created_s > IN_FLIGHT_S:
                self._settle(intent, Outcome.GIVEN_UP, detail="the cluster is ending")

    def _resolve(self, intent: Intent, error: AutoscalerError, deadline_s: float) -> Launched:
        self._tell("launch-ambiguous", intent, code=error.code, error=str(error))
        until_s = min(deadline_s, self._clock() + SETTLE_S)
        # A refused key or a wrong address will not show the instance either.
        while not isinstance(error, UserError):
            if found := self._find(intent.nonce):
                return self._adopt(intent, found.id)
            now_s = self._clock()
            if now_s >= until_s:
                break
            self._sleep(min(LOOK_EVERY_S, until_s - now_s))
        self._settle(intent, Outcome.GIVEN_UP, detail=str(error))
        if isinstance(error, UserError):
            raise error
        raise AmbiguousLaunchError(
            f"{intent.offering}: the launch had no clear answer ({error}); if the machine still "
            "comes, it is terminated",
            error.code,
            error.status,
        )

    def _find(self, nonce: str) -> Instance | None:
        try:
            instances = self._client.list_instances()
        except UnavailableError:
            return None
        return next((found for found in instances if nonce_of(found) == nonce), None)

    def _adopt(self, intent: Intent, instance_id: str) -> Launched:
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
            self._settle(intent, Outcome.COLLECTED, instance_id=instance_id)
            self._terminator.terminate([instance_id], "its launch was given up")
            raise AmbiguousLaunchError(
                f"{intent.offering}: given up while the launch was under way"
            )
        if adopted:
            self._tell("launched", intent, instance=instance_id)
        return Launched(
            instance_id,
            intent.nonce,
            intent.offering,
            intent.price_cents_per_hour,
            intent.created_s,
        )

    def _is_unwanted(self, nonce: str) -> bool:
        """Not adopted by us may also mean: adopted already, by a process that saw it first."""
        intent = self._journal.get(nonce)
        return intent is not None and intent.outcome in UNWANTED

    def _collect(
        self, unwanted: Iterable[Intent], by_nonce: Mapping[str, list[Instance]]
    ) -> tuple[str, ...]:
        late = [
            (intent, instance)
            for intent in unwanted
            for instance in by_nonce.get(intent.nonce, ())
            if not instance.status.is_terminating_or_gone
        ]
        if not late:
            return ()
        ids = [instance.id for _, instance in late]
        ended = self._terminator.terminate(ids, "arrived after it was given up")
        with suppress(StateError):  # the next list finds what is left to do
            for intent, instance in late:
                self._settle(intent, Outcome.COLLECTED, instance_id=instance.id)
        return tuple(sorted(ended.gone))

    def _settle(
        self,
        intent: Intent,
        outcome: Outcome,
        *,
        instance_id: str | None = None,
        detail: str = "",
        code: str | None = None,
    ) -> None:
        now_s = self._clock()
        if self._journal.settle(
            intent.nonce, outcome, now_s, instance_id=instance_id, detail=detail
        ):
            told = {"instance": instance_id, "code": code, "error": detail or None}
            self._tell(f"launch-{outcome}", intent, **told)

    def _tell(self, event: str, intent: Intent, **fields: str | None) -> None:
        self._events.write(
            event,
            cluster=intent.cluster,
            type=intent.offering.instance_type,
            region=intent.offering.region,
            nonce=intent.nonce,
            **fields,
        )
