"""What a sweep costs: node time times the price of a node.

The price is one number for all nodes, given by hand, in cents per node and hour. A trial's own
cost is its share of the node it runs on; the sweep's is the time of all nodes that stand while
it runs, idle or not.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import ray

LOOK_INTERVAL_S = 1.0


@dataclass
class NodeMeter:
    """Adds up node-seconds; `alive_nodes` counts the nodes that stand now."""

    price_cents_per_hour: int | None
    node_seconds: float = 0.0
    """So far, over all starts of the sweep."""
    alive_nodes: Callable[[], int] = field(default_factory=lambda: alive_nodes)
    clock: Callable[[], float] = time.monotonic
    _looked_s: float | None = None

    def look(self) -> None:
        """Count the time since the last look; at most once in LOOK_INTERVAL_S."""
        now_s = self.clock()
        if self._looked_s is None:
            self._looked_s = now_s
        elif now_s - self._looked_s >= LOOK_INTERVAL_S:
            self.node_seconds += self.alive_nodes() * (now_s - self._looked_s)
            self._looked_s = now_s

    @property
    def cost_cents(self) -> float | None:
        """So far; None without a price."""
        return cost_cents(self.node_seconds, self.price_cents_per_hour)


def cost_cents(node_seconds: float, price_cents_per_hour: int | None) -> float | None:
    """Cents for node time; None without a price."""
    return None if price_cents_per_hour is None else node_seconds / 3600 * price_cents_per_hour


def alive_nodes() -> int:
    """Nodes of the cluster now."""
    return sum(1 for node in ray.nodes() if node["Alive"])


def node_share(needs: Mapping[str, float], node: Mapping[str, float]) -> float:
    """The part of a node that a trial keeps from others: the largest over what it needs."""
    return min(1.0, max((need / node[name] for name, need in needs.items()), default=1.0))


def dollars(cents: float | None) -> str:
    """ "$1.23", or a dash without a price."""
    return "-" if cents is None else f"${cents / 100:.2f}"
