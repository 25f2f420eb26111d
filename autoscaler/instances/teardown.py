"""Teardown: terminates a whole cluster, and verifies that nothing of it bills any more.

An empty list proves nothing. A head goes on launching until its system is down, a machine
appears in the list some time after it was made, and a list may leave one out. Verified is: the
list shows nothing of the cluster that is not gone, each launch of ours has an outcome, and both
hold for QUIET_S without a break, counted from when the last machine was gone.
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
class TeardownReport:
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


class Teardown:
    """Safe while other threads and processes launch and terminate. `reconciler` makes a new one
    for a cluster."""

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
    ) -> TeardownReport:
        """Terminates every instance of the cluster and returns once that is verified.

        Quarantined and unhealthy instances and late arrivals included. The API may be away
        for a while; with a state file that cannot be read it looks for longer. Raises
        TeardownUnverifiedError, with the ids, after `time_limit_s`, and AuthError or
        AccountError at once. Idempotent: an empty cluster takes `quiet_s`.
        """
        started_s = self._clock()
        found = self._terminate(cluster, (), quiet_s, time_limit_s)
        return self._report(cluster, found, started_s)

    def terminate_others(
        self,
        cluster: str,
        spared: Collection[str],
        *,
        quiet_s: float = QUIET_S,
        time_limit_s: float = TIME_LIMIT_S,
    ) -> None:
        """As `terminate_all` for all but the instances `spared`; the run stays open."""
        self._terminate(cluster, spared, quiet_s, time_limit_s)

    def terminate_late_arrivals(self, cluster: str, *, time_limit_s: float = TIME_LIMIT_S) -> None:
        """Terminates what launches with an unknown outcome may still bring; the rest stays.

        For a process that exits after such a launch while no other maintains the cluster.
        Idempotent. Raises TeardownUnverifiedError when the API did not answer in time.
        """
        started_s, reconciler = self._clock(), self._reconciler(cluster)
        while not self._nothing_arrives(cluster, reconciler):
            if self._clock() - started_s > time_limit_s:
                raise TeardownUnverifiedError(
                    f"cluster {cluster!r}: launch outcome unknown, and the API does not say what "
                    "became of it: an instance may bill; run `ray down` once the API answers"
                )
            self._sleep(LOOK_EVERY_S)

    def _nothing_arrives(self, cluster: str, reconciler: Reconciler) -> bool:
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

    def _terminate(
        self, cluster: str, spared: Collection[str], quiet_s: float, time_limit_s: float
    ) -> dict[str, float]:
        """By id, when each instance to terminate was found first."""
        watch = _Watch(self._clock(), self._reconciler(cluster))
        quiet_since_s: float | None = None
        pending: Sequence[str] = ("not looked yet",)
        while True:
            try:
                pending = self._pass(cluster, spared, watch)
            except UnavailableError as error:
                pending = (f"the list cannot be read: {error}",)
                self._terminate_known(cluster, spared, watch)
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

    def _terminate_known(self, cluster: str, spared: Collection[str], watch: _Watch) -> None:
        """Without a list: what this machine has recorded as running, if it is this key's."""
        with suppress(StateError):
            ids = set(self._ledger.running_ids(cluster)) - self._ledger.foreign(cluster).keys()
            live = sorted(ids - set(spared) - watch.gone)
            now_s = self._clock()
            for instance_id in live:
                watch.found.setdefault(instance_id, now_s)
            watch.gone |= self._terminator.terminate(live, "the cluster is ending").gone

    def _pass(self, cluster: str, spared: Collection[str], watch: _Watch) -> tuple[str, ...]:
        """Lists, terminates what is live, and returns what is still pending, in words."""
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
        listed.update(watch.gone)  # the ledger may not know it
        # What we launched and no list has shown yet, or this one left out.
        live += [id_ for id_ in known.running if id_ not in listed]
        leaving = [i.id for i in mine if i.status is Status.TERMINATING]
        return _Look(
            tuple(id_ for id_ in live if id_ not in spared),
            tuple(id_ for id_ in (*known.collected, *leaving) if id_ not in spared),
        )

    def _report(self, cluster: str, found: dict[str, float], started_s: float) -> TeardownReport:
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
        return TeardownReport(tuple(found), late, charges, unreported, now_s - started_s)


def _heads_first(instance: Instance) -> tuple[bool, str]:
    """The head goes with the first batch: it is what launches more."""
    return instance.tags.get(NODE_KIND) != KIND_HEAD, instance.id
