"""Teardown: terminates all of a cluster, and verifies that nothing of it bills any more.

A list that shows nothing is not yet zero. A head goes on launching until its system is down,
a machine appears in the list some time after it was made, and a list may leave one out. So
zero is: nothing of the cluster listed that is not gone, no launch of ours without an outcome,
and this for QUIET_S without a break, counted from when the last machine was really gone.
"""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from autoscaler.domain import Charge, Instance, Status
from autoscaler.errors import StateError, TeardownUnverifiedError, UnavailableError, UserError
from autoscaler.events import EventLog
from autoscaler.instances.journal import Journal
from autoscaler.instances.launcher import SETTLE_S
from autoscaler.instances.reconcile import Reconciler
from autoscaler.instances.terminator import Terminator
from autoscaler.lambda_cloud.client import LambdaClient
from autoscaler.lambda_cloud.tags import KIND_HEAD, NODE_KIND, belongs_to, nonce_of
from autoscaler.money.ledger import Ledger

QUIET_S = 45.0
"""Lists lag by up to 30 s behind a launch; half as much again."""
LOOK_EVERY_S = 5.0
TIME_LIMIT_S = 900.0
"""After this long something is stuck that only Lambda's support can end."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Teardown:
    """`ended` in the order in which they were found; `late` are those after the first look.

    `charges` are the run's, as this machine knows them, and `unreported` the upper bound of what
    its other machines may have cost (`money.ledger`). Without a state file the run counts as
    one charge of unknown price.
    """

    ended: tuple[str, ...]
    late: tuple[str, ...]
    charges: list[Charge]
    unreported: list[Charge]
    took_s: float


@dataclass(frozen=True)
class _Look:
    """One complete list, as far as it concerns the cluster."""

    live: tuple[str, ...]
    leaving: tuple[str, ...]


@dataclass
class _Watch:
    """One teardown so far: when each instance to terminate was found first, and which ones
    Lambda has confirmed as gone."""

    started_s: float
    reconciler: Reconciler
    found: dict[str, float] = field(default_factory=dict[str, float])
    gone: set[str] = field(default_factory=set[str])


class ClusterEnd:
    """Safe while other threads and processes launch and terminate. `reconciler` makes one for a
    cluster."""

    def __init__(
        self,
        client: LambdaClient,
        journal: Journal,
        ledger: Ledger,
        reconciler: Callable[[str], Reconciler],
        terminator: Terminator,
        events: EventLog,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._journal = journal
        self._ledger = ledger
        self._reconciler = reconciler
        self._terminator = terminator
        self._events = events
        self._clock = clock
        self._sleep = sleep

    def terminate_all(
        self, cluster: str, *, quiet_s: float = QUIET_S, time_limit_s: float = TIME_LIMIT_S
    ) -> Teardown:
        """Ends every instance of the cluster and returns once that is verified.

        Quarantined and unhealthy instances and late arrivals included. The API may be away
        for a while; with a state file that cannot be read it looks for longer. Raises
        TeardownUnverifiedError, with the ids, after `time_limit_s`, and AuthError or
        AccountError at once. Idempotent: an empty cluster takes `quiet_s`.
        """
        started_s = self._clock()
        found = self._end(cluster, (), quiet_s, time_limit_s)
        return self._report(cluster, found, started_s)

    def terminate_others(
        self,
        cluster: str,
        spared: Collection[str],
        *,
        quiet_s: float = QUIET_S,
        time_limit_s: float = TIME_LIMIT_S,
    ) -> None:
        """The same for all but the instances `spared`; the run stays open."""
        self._end(cluster, spared, quiet_s, time_limit_s)

    def end_late_arrivals(self, cluster: str, *, time_limit_s: float = TIME_LIMIT_S) -> None:
        """Ends what launches that were given up may still bring; the rest of the cluster stays.

        For a process that goes away after such a launch, when no other looks after the
        cluster. Raises TeardownUnverifiedError when the API let it not be known in time.
        """
        started_s, reconciler = self._clock(), self._reconciler(cluster)
        while not self._nothing_comes(cluster, reconciler):
            if self._clock() - started_s > time_limit_s:
                raise TeardownUnverifiedError(
                    f"cluster {cluster!r}: launch outcome unknown, and the API does not say what "
                    "became of it: an instance may bill; run `ray down` once the API answers"
                )
            self._sleep(LOOK_EVERY_S)

    def _nothing_comes(self, cluster: str, reconciler: Reconciler) -> bool:
        """Whether a complete list shows no unwanted machine, at a time when none can come."""
        late_s = self._clock() - SETTLE_S
        try:
            instances = self._client.list_instances()
        except UnavailableError:
            return False
        reconciler.settle(instances)
        unwanted = self._journal.unwanted(cluster)
        if any(nonce_of(i) in unwanted and not i.status.is_terminating_or_gone for i in instances):
            return False
        unresolved = self._journal.unresolved(cluster)
        return all(i.settled_s is not None and i.settled_s < late_s for i in unresolved)

    def _end(
        self, cluster: str, spared: Collection[str], quiet_s: float, time_limit_s: float
    ) -> dict[str, float]:
        """When each instance that was found to be ended was found first."""
        watch = _Watch(self._clock(), self._reconciler(cluster))
        quiet_since_s: float | None = None
        pending: Sequence[str] = ("not looked yet",)
        while True:
            try:
                pending = self._pass(cluster, spared, watch)
            except UnavailableError as error:
                pending = (f"the list cannot be read: {error}",)
                self._end_known(cluster, spared, watch)
            now_s = self._clock()
            if pending:
                quiet_since_s = None
            elif quiet_since_s is None:
                quiet_since_s = now_s
            elif now_s - quiet_since_s >= quiet_s:
                return watch.found
            if now_s - watch.started_s > time_limit_s:
                raise TeardownUnverifiedError(
                    f"cluster {cluster!r} may still run after {time_limit_s:.0f} s: "
                    + "; ".join(pending or ("not yet quiet for long enough",))
                )
            self._sleep(LOOK_EVERY_S)

    def _end_known(self, cluster: str, spared: Collection[str], watch: _Watch) -> None:
        """Without a list: what this machine has recorded as running, if it is this key's."""
        with suppress(StateError):
            ids = set(self._ledger.running_ids(cluster)) - self._ledger.foreign(cluster).keys()
            live = sorted(ids - set(spared) - watch.gone)
            now_s = self._clock()
            for instance_id in live:
                watch.found.setdefault(instance_id, now_s)
            watch.gone |= self._terminator.terminate(live, "the cluster is ending").gone

    def _pass(self, cluster: str, spared: Collection[str], watch: _Watch) -> tuple[str, ...]:
        """Looks, ends what lives, and says what zero still waits for."""
        look = self._look(cluster, spared, watch)
        now_s = self._clock()
        for instance_id in (*look.live, *look.leaving):
            watch.found.setdefault(instance_id, now_s)
        failed: dict[str, str] = {}
        if look.live:
            ended = self._terminator.terminate(look.live, "the cluster is ending")
            watch.gone |= ended.gone
            for instance_id, error in ended.failed.items():
                if isinstance(error, UserError) and error.status in (401, 403):
                    raise error
                failed[instance_id] = f"{instance_id}: {error}"
        waiting = [f"{id_}: ending" for id_ in (*look.live, *look.leaving) if id_ not in failed]
        return (*failed.values(), *waiting, *watch.reconciler.unsettled(watch.started_s))

    def _look(self, cluster: str, spared: Collection[str], watch: _Watch) -> _Look:
        instances = self._client.list_instances()
        known = watch.reconciler.reconcile(instances)
        mine = [i for i in instances if belongs_to(i, cluster) or nonce_of(i) in known.nonces]
        listed = {instance.id for instance in mine}
        live = [
            instance.id
            for instance in sorted(mine, key=_heads_first)
            if not instance.status.is_terminating_or_gone and instance.id not in known.collected
        ]
        listed.update(watch.gone)  # which the ledger may not have been told
        # What we launched and no list has shown yet, or this one left out.
        live += [id_ for id_ in known.running if id_ not in listed]
        leaving = [i.id for i in mine if i.status is Status.TERMINATING]
        return _Look(
            tuple(id_ for id_ in live if id_ not in spared),
            tuple(id_ for id_ in (*known.collected, *leaving) if id_ not in spared),
        )

    def _report(self, cluster: str, found: dict[str, float], started_s: float) -> Teardown:
        now_s = self._clock()
        first_s = min(found.values(), default=now_s)
        late = tuple(id_ for id_, seen_s in found.items() if seen_s > first_s)
        charges, unreported = [Charge(None, started_s, now_s)], list[Charge]()
        try:
            charges, unreported = self._ledger.charges(cluster), self._ledger.unreported(cluster)
            self._ledger.close_run(cluster)
        except StateError as error:
            logger.warning("could not record the run's end: %s", error)
        self._events.write(
            "cluster-ended", cluster=cluster, instances=len(found), late=len(late), running=0
        )
        return Teardown(tuple(found), late, charges, unreported, now_s - started_s)


def _heads_first(instance: Instance) -> tuple[bool, str]:
    """The head goes with the first batch: it is what launches more."""
    return instance.tags.get(NODE_KIND) != KIND_HEAD, instance.id
