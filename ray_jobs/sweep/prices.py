"""What nodes cost an hour: a price given by hand for each, or that of its type.

A node type of the cluster names several instance types, any of which may have been launched;
its price is that of the dearest, by the shipped price list, so that a sweep never costs more
than it says. Elsewhere than on a cluster of ours only a price by hand is known.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import ray

from data.errors import ConfigError
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
    listed = json.loads(files("autoscaler").joinpath("prices.json").read_text(encoding="utf-8"))
    price_of = {each["name"]: each["price_cents_per_hour"] for each in listed["types"]}
    named = {name: each["node_config"].get("instance_types", []) for name, each in types.items()}
    if not all(each and set(each) <= price_of.keys() for each in named.values()) or not named:
        return Prices()
    by_type = {name: max(price_of[each] for each in types) for name, types in named.items()}
    return Prices(
        by_type=by_type,
        source=f"the dearest instance type of each node's type, price list of {listed['as_of']}",
    )


def check_limit(config: SweepConfig, by_hand: int | None) -> None:
    """Refuse a limit that could not be kept; needs no Ray.

    Raises:
        ConfigError: there is one, and the price of a node is not known.
    """
    if config.max_cost_usd is not None and known_prices(by_hand) == Prices():
        raise ConfigError("max_cost_usd", "needs the price of a node: --price-cents-per-hour")


def node_share(needs: Resources, node: Resources) -> float:
    """The part of a node that a trial keeps from others: the largest over what it needs."""
    return min(1.0, max((need / node[name] for name, need in needs.items()), default=1.0))
