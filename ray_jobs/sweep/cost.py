"""`NodeMeter`: what a sweep costs, which is the time of all its nodes, idle or not, times price.

`spend.json` outlives the driver. It is written ahead: what it holds is what will have been
spent when it is next written, so that a driver killed in between has not spent more.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import ray

from autoscaler.lambda_cloud.prices import price_list
from data.errors import ConfigError, JobError, RefusedError
from data.storage import Store
from ray_jobs.runtime.cluster import Resources, fits, node_types
from ray_jobs.sweep.config import SweepConfig

NODE_TYPE_LABEL = "ray.io/node-group"
"""Of a node that Ray's autoscaler has started."""


@dataclass(frozen=True)
class Rate:
    """What some nodes cost together."""

    cents_per_hour: float
    unpriced_nodes: int = 0
    """Nodes whose price is not known and not in it."""


@dataclass(frozen=True)
class Prices:
    """Cents an hour of any node."""

    by_hand: int | None = None
    by_type: Mapping[str, int] | None = None
    """Of the cluster's node types; None where they, or the price of one, are not known."""
    source: str = "unknown: give --price-cents-per-hour"

    def of(self, node: Mapping[str, Any]) -> int | None:
        """Of a row of `ray.nodes()`; of a type that it does not tell, the dearest's."""
        if self.by_hand is not None or not self.by_type:
            return self.by_hand
        dearest = max(self.by_type.values())
        return self.by_type.get(node.get("Labels", {}).get(NODE_TYPE_LABEL, ""), dearest)

    def rate(self) -> Rate:
        """Of all nodes that stand now."""
        prices = [self.of(node) for node in ray.nodes() if node["Alive"]]
        return Rate(sum(price or 0 for price in prices), prices.count(None))

    def of_trial(self, needs: Resources, address: str) -> float | None:
        """Of the part of a node that a trial keeps from others; None where it is not known."""
        here = (each for each in ray.nodes() if each["NodeManagerAddress"] == address)
        node = next((each for each in here if fits(needs, each["Resources"])), None)
        price = None if node is None else self.of(node)
        if node is None or price is None:
            return None
        return price * node_share(needs, node["Resources"])


def known_prices(by_hand: int | None) -> Prices:
    """The prices of this cluster's nodes."""
    if by_hand is not None:
        return Prices(by_hand, source=f"{by_hand} cents a node and hour, as given")
    types = node_types()
    listed = price_list()
    prices = {name: each.price_cents_per_hour for name, each in listed.types.items()}
    price_of = {name: price for name, price in prices.items() if price is not None}
    named = {name: each["node_config"].get("instance_types", []) for name, each in types.items()}
    if not all(each and set(each) <= price_of.keys() for each in named.values()) or not named:
        return Prices()
    by_type = {name: max(price_of[each] for each in types) for name, types in named.items()}
    return Prices(
        by_type=by_type,
        source=f"the dearest instance type of each node's type, price list of {listed.as_of}",
    )


def check_limit(config: SweepConfig, by_hand: int | None) -> None:
    """Refuse a limit that could not be kept; needs no Ray.

    Raises:
        ConfigError: there is one, and the price of a node is not known.
    """
    if config.max_cost_cents is not None and known_prices(by_hand) == Prices():
        raise ConfigError("max_cost_cents", "needs the price of a node: --price-cents-per-hour")


def node_share(needs: Resources, node: Resources) -> float:
    """The part of a node that a trial keeps from others: the largest over what it needs."""
    return min(1.0, max((need / node[name] for name, need in needs.items()), default=1.0))


SPEND = "spend.json"
LOOK_INTERVAL_S = 1.0
SAVE_INTERVAL_S = 10.0


@dataclass(frozen=True)
class Spend:
    """What nodes have cost, over all starts of a sweep."""

    cents: float = 0.0
    unpriced_node_seconds: float = 0.0
    """Of nodes whose price was not known."""

    def after(self, rate: Rate, seconds: float) -> "Spend":
        """What it will be when nodes at this rate have stood so much longer."""
        return Spend(
            self.cents + rate.cents_per_hour * seconds / 3600,
            self.unpriced_node_seconds + rate.unpriced_nodes * seconds,
        )

    def priced(self, cents_per_hour: int | None) -> "Spend":
        """The same once a price by hand is known."""
        if cents_per_hour is None:
            return self
        return Spend(self.cents + self.unpriced_node_seconds * cents_per_hour / 3600)

    @property
    def cost_cents(self) -> float | None:
        """None where the price of a node was not known."""
        return None if self.unpriced_node_seconds else self.cents


class NodeMeter:
    """Counts from its entry to its exit, in a thread of its own: harvests and waits as well.

    store           where `spend.json` is; what it holds already counts
    rate            what the nodes that stand now cost
    max_cost_cents  what may be spent; None for no limit
    by_hand         a price by hand in cents an hour, for time whose price was not known before
    """

    def __init__(
        self,
        store: Store,
        rate: Callable[[], Rate],
        *,
        max_cost_cents: float | None = None,
        by_hand: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._rate, self._clock = store, rate, clock
        self._max_cost_cents = max_cost_cents
        before = Spend(**store.read_json(SPEND)) if store.exists(SPEND) else Spend()
        self.spend = before.priced(by_hand)
        self._now = Rate(0.0)
        self._looked_s = self._saved_s = clock()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._problem: JobError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "NodeMeter":
        """Start to count.

        Raises:
            ConfigError: there is a limit, and nodes whose price is not known.
        """
        self._now = self._rate()
        unpriced = self._now.unpriced_nodes or self.cost_cents is None
        if self._max_cost_cents is not None and unpriced:
            raise ConfigError("max_cost_cents", "needs the price of a node: --price-cents-per-hour")
        self._save(ahead_s=SAVE_INTERVAL_S)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._count()
        self._save(ahead_s=0.0)

    def __getstate__(self) -> dict[str, Spend]:
        """Ray Tune pickles what it is given; nothing here reads it again."""
        return {"spend": self.spend}

    def look(self) -> None:
        """Count the time since the last look, and write it down now and then."""
        with self._lock:
            self._count()
            if self._looked_s - self._saved_s >= SAVE_INTERVAL_S:
                self._save(ahead_s=SAVE_INTERVAL_S)

    def check(self) -> None:
        """To be called now and then by work that may be broken off.

        Raises:
            RefusedError: the money is spent.
            JobError: what was spent could not be recorded.
        """
        if self._problem is not None:
            raise self._problem
        if self.spent:
            raise RefusedError(
                "the money (max_cost_cents) is spent before a trial could run: give more; what is "
                "ready stays"
            )

    @property
    def cost_cents(self) -> float | None:
        """So far; None where the price of a node is not known."""
        return self.spend.cost_cents

    @property
    def spent(self) -> bool:
        """Whether there is no money left."""
        cost, most = self.cost_cents, self._max_cost_cents
        return most is not None and cost is not None and cost >= most

    @property
    def problem(self) -> JobError | None:
        """Why what was spent could not be recorded."""
        return self._problem

    def _run(self) -> None:
        while not self._ended.wait(LOOK_INTERVAL_S):
            try:
                self.look()
            except JobError as error:
                self._problem = error
                return

    def _count(self) -> None:
        now_s = self._clock()
        self._now = self._rate()
        self.spend = self.spend.after(self._now, now_s - self._looked_s)
        self._looked_s = now_s

    def _save(self, ahead_s: float) -> None:
        self._saved_s = self._looked_s
        self._store.write_json(SPEND, asdict(self.spend.after(self._now, ahead_s)))


def dollars(cents: float | None) -> str:
    """ "$1.23", or a dash without a price."""
    return "-" if cents is None else f"${cents / 100:.2f}"
