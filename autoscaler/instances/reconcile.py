"""A whole list, compared with what this machine has written down of the cluster.

Without its state file a machine launches nothing, but it must go on seeing and ending what
runs: then what was read last stands, and a process that has read nothing goes by the list.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from autoscaler.domain import Instance
from autoscaler.errors import StateError
from autoscaler.events import EventLog
from autoscaler.instances.journal import Journal
from autoscaler.instances.launcher import Launcher
from autoscaler.money.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Compared:
    """`collected` are the ids that were ended on the way, `unwanted` and `nonces` are of
    launches, `running` the ids of what bills as far as we know."""

    collected: tuple[str, ...] = ()
    unwanted: Collection[str] = ()
    nonces: Collection[str] = ()
    running: Collection[str] = ()


class Records:
    """Of one cluster."""

    def __init__(
        self, cluster: str, launcher: Launcher, journal: Journal, ledger: Ledger, events: EventLog
    ) -> None:
        self._cluster = cluster
        self._launcher = launcher
        self._journal = journal
        self._ledger = ledger
        self._events = events
        self._last = Compared()

    def compare(self, instances: Sequence[Instance]) -> Compared:
        """See `Launcher.reconcile`; raises AuthError as it does, and never StateError."""
        try:
            collected = self._launcher.reconcile(self._cluster, instances)
            self._last = Compared(
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
