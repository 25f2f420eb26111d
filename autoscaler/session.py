"""The session: all parts that speak to Lambda for one account on one machine, wired once.

The parts share the account's rate and the machine's state file with every other session of
this machine, whatever process it lives in.
"""

import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from autoscaler.domain import ApiKey
from autoscaler.events import EventLog
from autoscaler.instances.acquire import Acquirer
from autoscaler.instances.journal import Journal
from autoscaler.instances.launcher import Launcher
from autoscaler.instances.reconcile import Reconciler
from autoscaler.instances.teardown import Teardown
from autoscaler.instances.terminator import Terminator
from autoscaler.instances.unavailable_offerings import UnavailableOfferings
from autoscaler.lambda_cloud.catalog import CatalogSource
from autoscaler.lambda_cloud.client import LambdaClient
from autoscaler.lambda_cloud.credentials import api_url, home_dir, load_api_key, on_head
from autoscaler.lambda_cloud.rate_limit import SharedRateLimit, Turn
from autoscaler.lambda_cloud.transport import Transport
from autoscaler.money.ledger import Ledger
from autoscaler.money.spend_sync import SpendSync
from autoscaler.state import State, TagStore

if TYPE_CHECKING:
    from requests.adapters import BaseAdapter


class Session:
    """Sends nothing by itself. `clock` is in epoch seconds; the parts are thread-safe.

    `turn` is the machine's in the account's rate; without one it has the rate to itself.
    """

    def __init__(
        self,
        key: ApiKey,
        url: str,
        home: Path,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        turn: Turn | None = None,
        adapter: "BaseAdapter | None" = None,
        durable: bool = True,
    ) -> None:
        self.key = key
        self.url = url
        self.home = home
        self.clock = clock
        self.sleep = sleep
        self._state = state = State(home / "state.db", durable=durable)
        self.events = EventLog(home / "events.jsonl", clock)
        rate_limit = SharedRateLimit(state, key.account, turn=turn, clock=clock, sleep=sleep)
        transport = Transport(key, url, rate_limit, self.events, sleep=sleep, adapter=adapter)
        self.client = LambdaClient(transport)
        self.tags = TagStore(state)
        self.journal = Journal(state, key.account)
        self.ledger = Ledger(state, key.account)
        self.unavailable_offerings = UnavailableOfferings(state, key.account)
        self.catalog = CatalogSource(self.client, clock)
        self.terminator = Terminator(self.client, self.ledger, self.events, clock)
        self.launcher = Launcher(
            self.client,
            self.journal,
            self.ledger,
            self.terminator,
            self.events,
            clock=clock,
            sleep=sleep,
        )
        self.acquirer = Acquirer(
            self.client,
            self.catalog,
            self.unavailable_offerings,
            self.journal,
            self.launcher,
            self.events,
            clock=clock,
        )

    @cached_property
    def teardown(self) -> Teardown:
        return Teardown(
            self.client,
            self.journal,
            self.ledger,
            self.reconciler,
            self.terminator,
            self.events,
            clock=self.clock,
            sleep=self.sleep,
        )

    def reconciler(self, cluster: str) -> Reconciler:
        """A new one: it remembers what it has read last."""
        return Reconciler(
            cluster,
            self.launcher,
            self.journal,
            self.ledger,
            self.terminator,
            self.events,
            clock=self.clock,
        )

    def spend_sync(self, cluster: str) -> SpendSync:
        return SpendSync(cluster, self._state, self.ledger, self.clock)


def open_session() -> Session:
    """With this machine's key, address, state and turn.

    Raises AuthError, ConfigError.
    """
    turn = Turn.HEAD if on_head() else Turn.LAPTOP
    return Session(load_api_key(), api_url(), home_dir(), turn=turn)
