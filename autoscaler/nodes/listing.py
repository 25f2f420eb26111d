"""The node list: the cluster's nodes as Ray may see them, without flapping.

Ray takes a node that one list leaves out for dead, and reinstalls Ray over it when the next
list shows it again. So a node is gone only when Lambda says so of itself; a failing API is
answered with the last good list for a while, and then with the error, never with nothing; and
a node that was just launched is there at once, whatever the list says.

Hidden are machines on their way out, machines of launches that were given up, and machines
without the tags that Ray needs (quarantined: to be ended with the cluster, never managed).
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

from autoscaler.domain import Instance
from autoscaler.errors import AutoscalerError, NotFoundError, StateError, UnavailableError
from autoscaler.events import LIST_FAILED, EventLog
from autoscaler.instances.launcher import SETTLE_S
from autoscaler.instances.reconcile import Reconciler
from autoscaler.lambda_cloud.client import LambdaClient
from autoscaler.lambda_cloud.tags import belongs_to, created_s, kind_of, node_tags, nonce_of
from autoscaler.money.ledger import Ledger
from autoscaler.state import TagStore

FRESH_S = 4.0
"""How long a list serves: Ray reconciles every 5 s, and asks much in between."""
OUTAGE_S = 120.0
"""How long the last good list stands in for an API that fails."""
TOMBSTONE_S = 600.0
"""How long an ended node stays hidden, though a stale list may still show it alive."""
LOOKS = 3
"""Second looks in one refresh: each costs the account a request. A process that begins asks for
every machine that was running and is not listed."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Node:
    """An instance of the cluster. `tags` is None while it is quarantined."""

    instance: Instance
    tags: Mapping[str, str] | None

    @property
    def kind(self) -> str:
        return kind_of(self.instance)


class NodeList:
    """Thread-safe. One request at a time, however many threads ask."""

    def __init__(
        self,
        cluster: str,
        client: LambdaClient,
        reconciler: Reconciler,
        ledger: Ledger,
        tag_store: TagStore,
        events: EventLog,
        clock: Callable[[], float],
    ) -> None:
        self._cluster = cluster
        self._client = client
        self._reconciler = reconciler
        self._ledger = ledger
        self._tag_store = tag_store
        self._events = events
        self._clock = clock
        self._flight = threading.Lock()
        self._lock = threading.Lock()
        self._nodes: dict[str, Node] = {}
        self._ended_s: dict[str, float] = {}
        self._former: dict[str, tuple[float, Node]] = {}
        self._omissions: Counter[str] = Counter()
        self._read_s: float | None = None
        self._error: AutoscalerError | None = None
        self._failed_s = 0.0

    def refresh(self, max_age_s: float = FRESH_S) -> bool:
        """Makes the list at most this old; True if it was read anew.

        Raises the API's error once the last good list is older than OUTAGE_S. An API that has
        just failed is not asked again before `max_age_s`, however many threads want to know.
        """
        with self._flight:
            if self._age_s() <= max_age_s:
                return False
            if self._error is None or self._clock() - self._failed_s > max_age_s:
                try:
                    self._read()
                    return True
                except AutoscalerError as error:
                    self._fail(error)
            if self._error is not None and self._age_s() > OUTAGE_S:
                raise self._error
            return False

    @property
    def is_stale(self) -> bool:
        """True while the last good list stands in for the API."""
        return self._error is not None

    def all(self) -> dict[str, Node]:
        """Every machine of the cluster that is not on its way out, quarantined ones included."""
        with self._lock:
            return dict(self._nodes)

    def get(self, node_id: str) -> Node | None:
        with self._lock:
            return self._nodes.get(node_id)

    def recall(self, node_id: str) -> Node | None:
        """Also one that has gone a short while ago: threads of Ray may still ask about it."""
        with self._lock:
            _, former = self._former.get(node_id, (0.0, None))
            return self._nodes.get(node_id, former)

    def add(self, instance: Instance) -> None:
        """A machine that was just launched."""
        with self._lock:
            self._nodes[instance.id] = self._node(instance, self._tag_store.of(instance.id))

    def drop(self, node_ids: Collection[str]) -> None:
        """Machines that were just ended."""
        now_s = self._clock()
        with self._lock:
            for node_id in node_ids:
                self._ended_s[node_id] = now_s
                if node := self._nodes.pop(node_id, None):
                    self._former[node_id] = (now_s, node)
        self._forget_tags(node_ids)

    def merge_tags(self, node_id: str, tags: Mapping[str, str]) -> None:
        """Adds and replaces tags that live on this machine."""
        self._tag_store.merge(node_id, tags)
        with self._lock:
            if node := self._nodes.get(node_id):
                self._nodes[node_id] = self._node(node.instance, self._tag_store.of(node_id))

    def _age_s(self) -> float:
        """Infinite before the first list, and when the clock was set back."""
        if self._read_s is None or self._clock() < self._read_s:
            return float("inf")
        return self._clock() - self._read_s

    def _fail(self, error: AutoscalerError) -> None:
        self._error = error
        self._failed_s = self._clock()
        self._events.write_change(
            f"list {self._cluster}",
            LIST_FAILED,
            cluster=self._cluster,
            code=error.code,
            error=str(error),
        )

    def _read(self) -> None:
        before = self.all()
        instances = self._client.list_instances()
        known = self._reconciler.reconcile(instances)
        mine = {
            instance.id: instance
            for instance in instances
            if belongs_to(instance, self._cluster) or nonce_of(instance) in known.nonces
        }
        leaving = {id_: i for id_, i in mine.items() if i.status.is_terminating_or_gone}
        hidden = {id_ for id_, i in mine.items() if nonce_of(i) in known.unwanted}
        hidden.update(leaving, known.collected)
        # A record that could not be read in full does not change a node that was.
        mine |= {
            id_: before[id_].instance for id_, i in mine.items() if i.is_partial and id_ in before
        }
        shown = {id_: i for id_, i in mine.items() if id_ not in hidden}
        kept, gone, unclear = self._look_again(known.running, mine.keys() | set(known.collected))
        now_s = self._clock()
        with suppress(StateError):
            self._ledger.end(gone, now_s)
        lost = {id_: "no longer there" for id_ in gone}
        lost |= {id_: str(instance.status) for id_, instance in leaving.items()}
        self._report_lost({id_: why for id_, why in lost.items() if id_ in before})
        self._commit(shown | kept, before.keys() | hidden, now_s)
        if unclear:
            # Without them Ray would take them for gone.
            raise UnavailableError(
                f"Lambda's list leaves out {unclear} machines that were running when this process "
                "began, and their status is unknown"
            )
        self._succeed(now_s)

    def _look_again(
        self, running: Collection[str], seen: Collection[str]
    ) -> tuple[dict[str, Instance], list[str], int]:
        """Known machines that the list left out: those to keep, those surely gone, and how many
        are neither: only the ledger (`running`) knows them, and Lambda has said nothing yet.

        A first omission is passed over; after that Lambda is asked for the machine itself.
        """
        known = self.all()
        with self._lock:
            missing = (known.keys() | set(running)) - set(seen)
            missing -= self._ended_s.keys()
            self._omissions = Counter({id_: self._omissions[id_] + 1 for id_ in missing})
        kept = {id_: known[id_].instance for id_ in missing if id_ in known}
        due = [
            id_
            for id_ in missing
            if id_ not in kept or (self._omissions[id_] > 1 and not self._is_new(kept[id_]))
        ]
        # The unknown ones first, then those missing for longest, so that each has its turn.
        due.sort(key=lambda id_: (id_ in kept, -self._omissions[id_], id_))
        gone: list[str] = []
        for node_id in due[: max(LOOKS, sum(id_ not in kept for id_ in due))]:
            try:
                found = self._client.get_instance(node_id)
            except NotFoundError:
                found = None
            except AutoscalerError:
                continue
            if found is None or found.status.is_terminating_or_gone:
                gone.append(node_id)
                kept.pop(node_id, None)
            else:
                kept[node_id] = (
                    known[node_id].instance if found.is_partial and node_id in known else found
                )
                self._omissions[node_id] = 0
        return kept, gone, len(missing - kept.keys() - set(gone))

    def _is_new(self, instance: Instance) -> bool:
        """Lists, and even the machine's own page, may lag behind a launch."""
        launched_s = created_s(instance)
        return launched_s is not None and self._clock() - launched_s < SETTLE_S

    def _commit(
        self, instances: Mapping[str, Instance], settled: Collection[str], now_s: float
    ) -> None:
        """`settled` are the ids that this list has decided about; others came meanwhile."""
        with self._lock:
            try:
                local = self._tag_store.all()
            except StateError:
                local = {id_: dict(node.tags or {}) for id_, node in self._nodes.items()}
            self._ended_s = {
                id_: at_s for id_, at_s in self._ended_s.items() if now_s - at_s < TOMBSTONE_S
            }
            nodes = {id_: self._node(i, local.get(id_, {})) for id_, i in instances.items()}
            came = {id_: node for id_, node in self._nodes.items() if id_ not in settled}
            former = self._former | {id_: (now_s, node) for id_, node in self._nodes.items()}
            self._nodes = {
                id_: node for id_, node in (came | nodes).items() if id_ not in self._ended_s
            }
            self._former = {
                id_: (at_s, node)
                for id_, (at_s, node) in former.items()
                if id_ not in self._nodes and now_s - at_s < TOMBSTONE_S
            }

    def _succeed(self, now_s: float) -> None:
        self._read_s = now_s
        if self._error is not None:
            self._error = None
            self._events.write_change(
                f"list {self._cluster}", "list-restored", cluster=self._cluster
            )

    def _node(self, instance: Instance, local: Mapping[str, str]) -> Node:
        tags = node_tags(instance, local)
        if tags is None:
            self._events.write_change(
                f"quarantine {instance.id}",
                "quarantined",
                cluster=self._cluster,
                instance=instance.id,
                reason="its tags are incomplete",
            )
        return Node(instance, tags)

    def _report_lost(self, lost: Mapping[str, str]) -> None:
        for node_id, why in sorted(lost.items()):
            if node_id not in self._ended_s:
                self._events.write_change(
                    f"lost {node_id}",
                    "node-lost",
                    cluster=self._cluster,
                    instance=node_id,
                    reason=why,
                )
                self._forget_tags([node_id])

    def _forget_tags(self, node_ids: Collection[str]) -> None:
        with suppress(StateError):  # they are of no more use, and do no harm
            for node_id in node_ids:
                self._tag_store.forget(node_id)
