"""The reconciler: a complete list of instances against what this machine has recorded.

For every list that is read, it adopts what a process left that died in the middle of a launch,
terminates late arrivals of launches that were given up, and keeps the spend ledger. Without its
state file a machine launches nothing, but it must go on seeing and ending what runs: then what
was read last stands, and a process that has read nothing goes by the list.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from autoscaler.domain import Instance
from autoscaler.errors import AuthError, StateError
from autoscaler.events import EventLog
from autoscaler.instances.journal import UNWANTED, Intent, Journal, Outcome
from autoscaler.instances.launcher import SETTLE_S, Launcher
from autoscaler.instances.terminator import Terminator
from autoscaler.lambda_cloud.catalog import with_price
from autoscaler.lambda_cloud.tags import belongs_to, nonce_of
from autoscaler.money.ledger import Ledger

ARRIVAL_S = 600.0
"""An intent that was given up counts as money that may be spent for this long."""
IN_FLIGHT_S = 90.0
"""A launch that has no answer by then has no sender any more (an attempt is bounded by 50 s)."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reconciled:
    """`collected` are the ids that were terminated on the way; `unwanted` and `nonces` are of
    launches; `running` are the ids of what bills as far as this machine knows."""

    collected: tuple[str, ...] = ()
    unwanted: Collection[str] = ()
    nonces: Collection[str] = ()
    running: Collection[str] = ()


class Reconciler:
    """Of one cluster. Idempotent; sends nothing when there is nothing to terminate."""

    def __init__(
        self,
        cluster: str,
        launcher: Launcher,
        journal: Journal,
        ledger: Ledger,
        terminator: Terminator,
        events: EventLog,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cluster = cluster
        self._launcher = launcher
        self._journal = journal
        self._ledger = ledger
        self._terminator = terminator
        self._events = events
        self._clock = clock
        self._last = Reconciled()

    def reconcile(self, instances: Sequence[Instance]) -> Reconciled:
        """`instances` are a complete, fresh list.

        Raises AuthError, before it does anything, where the machines are another account's than
        the key; never StateError.
        """
        try:
            collected = self.settle(instances)
            self._last = Reconciled(
                collected,
                frozenset(self._journal.unwanted(self._cluster)),
                frozenset(self._journal.nonces(self._cluster)),
                self._ledger.running_ids(self._cluster),
            )
        except StateError as error:
            topic = f"state {self._cluster}"
            self._events.write_change(topic, "state-failed", error=str(error))
            return replace(self._last, collected=())
        return self._last

    def settle(self, instances: Sequence[Instance]) -> tuple[str, ...]:
        """Settles old intents; returns the ids it terminated. Raises StateError where what was
        intended cannot be read, and AuthError as `reconcile` does."""
        self._check_account(instances)
        by_nonce: dict[str, list[Instance]] = {}
        for instance in instances:
            if nonce := nonce_of(instance):
                by_nonce.setdefault(nonce, []).append(instance)
        now_s = self._clock()
        watched = self._journal.watched(self._cluster)
        mine = [with_price(i) for i in instances if belongs_to(i, self._cluster)]
        try:
            for intent in watched:
                self._age(intent, by_nonce.get(intent.nonce), now_s)
            self._ledger.observe(self._cluster, mine, now_s)
        except StateError as error:  # a full disk: what is to be ended is ended all the same
            logger.warning("could not record what the list shows: %s", error)
        return self._collect([i for i in watched if i.outcome in UNWANTED], by_nonce)

    def unsettled(self, since_s: float) -> list[str]:
        """The cluster is to end since `since_s`: its launches that may yet make a machine. Those
        past their time are settled. Never raises StateError."""
        now_s = self._clock()
        try:
            with suppress(StateError):
                self._give_up(now_s)
            intents = self._journal.unresolved(self._cluster)
        except StateError as error:
            over = now_s - since_s > IN_FLIGHT_S + SETTLE_S
            return [] if over else [f"a launch may be under way: {error}"]
        waiting: list[str] = []
        for intent in intents:
            # Only a state file that cannot be written leaves one open for so long.
            given_up_s = intent.settled_s or intent.created_s + IN_FLIGHT_S
            if now_s - given_up_s > SETTLE_S:
                with suppress(StateError):
                    self._journal.settle(intent.nonce, Outcome.ABSENT, now_s)
            else:
                waiting.append(f"launch {intent.nonce} ({intent.offering}): outcome unknown")
        return waiting

    def _check_account(self, instances: Iterable[Instance]) -> None:
        """Raises AuthError if what bills, or a launch that may yet make a machine, is of a key
        whose machines this key does not see. Another key of the same account takes over."""
        foreign = self._ledger.foreign(self._cluster) | self._journal.foreign(self._cluster)
        if not foreign:
            return
        seen = {name for i in instances for name in (i.id, nonce_of(i))}
        own = {account for name, account in foreign.items() if name in seen}
        for account in own:
            self._ledger.take_over(self._cluster, account)
            self._journal.take_over(self._cluster, account)
        hidden = sorted(name for name, account in foreign.items() if account not in own)
        if hidden:
            others = f" and {len(hidden) - 1} more" if len(hidden) > 1 else ""
            raise AuthError(
                f"cluster {self._cluster!r}: {hidden[0]}{others} may run, launched with the API "
                f"key of account {foreign[hidden[0]]}, and this key ({self._ledger.account}) does "
                "not see it: use that account's key; or, if Lambda's console shows that nothing "
                "runs, move ~/.raylambda/state.db away"
            )

    def _give_up(self, now_s: float) -> None:
        """Launches have no caller any more; those that may be in flight stay open meanwhile."""
        for intent in self._journal.unresolved(self._cluster):
            if intent.outcome is Outcome.OPEN and now_s - intent.created_s > IN_FLIGHT_S:
                self._launcher.settle(intent, Outcome.GIVEN_UP, detail="the cluster is ending")

    def _age(self, intent: Intent, arrived: list[Instance] | None, now_s: float) -> None:
        if intent.outcome is Outcome.OPEN and now_s - intent.created_s > IN_FLIGHT_S:
            if arrived:
                self._launcher.adopt(intent, arrived[0].id)
            elif now_s - intent.created_s > IN_FLIGHT_S + SETTLE_S:
                self._launcher.settle(intent, Outcome.GIVEN_UP, detail="its process ended")
        elif intent.outcome is Outcome.GIVEN_UP and not arrived:
            if now_s - (intent.settled_s or now_s) > ARRIVAL_S:
                self._launcher.settle(intent, Outcome.ABSENT)

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
                self._launcher.settle(intent, Outcome.COLLECTED, instance_id=instance.id)
        return tuple(sorted(ended.gone))
