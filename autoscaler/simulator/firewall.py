"""Firewall rulesets: which traffic reaches an instance from outside, by region."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from autoscaler.simulator.cloud.errors import invalid_parameters
from autoscaler.simulator.cloud.offers import region_json


@dataclass(frozen=True)
class FirewallRuleset:
    """Rules as the API has them: protocol, port range, source network, description."""

    id: str
    name: str
    region: str
    rules: tuple[dict[str, Any], ...]
    created_at: float

    def to_json(self, instance_ids: list[str]) -> dict[str, Any]:
        """The API's `FirewallRuleset` object."""
        return {
            "id": self.id,
            "name": self.name,
            "region": region_json(self.region),
            "rules": list(self.rules),
            "created": datetime.fromtimestamp(self.created_at, UTC).isoformat(),
            "instance_ids": instance_ids,
        }


def check_rule(rule: dict[str, Any]) -> None:
    """ApiError 400 for what the rule's schema cannot say: ports and CIDR notation."""
    has_ports = "port_range" in rule
    if has_ports == (rule["protocol"] == "icmp"):
        raise invalid_parameters("port_range: required, except that icmp must not have it")
    if has_ports and rule["port_range"][0] > rule["port_range"][1]:
        raise invalid_parameters("port_range: must be [min, max]")
    try:
        ipaddress.IPv4Network(rule["source_network"])
    except ValueError:
        raise invalid_parameters("source_network: not an IPv4 network") from None
