"""A simulated instance: its launch, its record, its JSON in the API, and its bill.

Billing is by the minute, each started one counted in full, at the type's hourly price.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from autoscaler.simulator.cloud.offers import TYPES, InstanceType, region_json, type_json
from autoscaler.simulator.machines.machines import Address

ENDED = frozenset({"terminating", "terminated", "preempted"})
"""Statuses that an instance does not leave for a running one."""


@dataclass(frozen=True)
class LaunchSpec:
    """A launch that passed validation. `mounts` holds (mount point, file system id) pairs."""

    instance_type: str
    region: str
    ssh_key_name: str
    name: str | None = None
    hostname: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    file_system_names: tuple[str, ...] = ()
    mounts: tuple[tuple[str, str], ...] = ()
    image_id: str | None = None
    image_family: str | None = None
    firewall_ruleset_ids: tuple[str, ...] = ()
    user_data: str = ""


@dataclass
class Instance:
    """The record of one instance, kept after its end. Times are cloud seconds.

    `history` holds (time it began, status), oldest first. `faults` names what is wrong with it
    (`dead_cuda`, `untagged`, ...). It is billed from `metered_from` to `metered_until`.
    """

    number: int
    id: str
    spec: LaunchSpec
    launched_at: float
    listed_from: float
    history: list[tuple[float, str]]
    name: str | None
    terminating_s: float
    faults: set[str] = field(default_factory=set)
    address: Address | None = None
    metered_from: float | None = None
    metered_until: float | None = None
    ended_at: float | None = None

    @property
    def type(self) -> InstanceType:
        return TYPES[self.spec.instance_type]

    @property
    def status(self) -> str:
        return self.history[-1][1]

    @property
    def alive(self) -> bool:
        """Whether it runs or is going to, so that it can leak."""
        return self.status not in ENDED

    def status_at(self, at: float) -> str | None:
        """The status at an earlier time; None before the launch."""
        for began, status in reversed(self.history):
            if began <= at:
                return status
        return None

    @property
    def tags(self) -> dict[str, str]:
        """The tags of its launch, also where a fault hides them from the API."""
        return dict(self.spec.tags)


def instance_json(
    instance: Instance, status: str, mounts: list[dict[str, str]], private_ip: bool
) -> dict[str, Any]:
    """The API's `Instance` object, with a status that may be an old one (a stale list).

    As in the API's document, fields that are not known yet are left out, as are empty `mounts`.
    """
    spec = instance.spec
    body: dict[str, Any] = {
        "id": instance.id,
        "status": status,
        "ssh_key_names": [spec.ssh_key_name],
        "file_system_names": list(spec.file_system_names),
        "region": region_json(spec.region),
        "instance_type": type_json(instance.type),
        "actions": _actions(status),
        "tags": [{"key": k, "value": v} for k, v in spec.tags],
    }
    if "untagged" in instance.faults:
        body["tags"] = []
    if instance.name is not None:
        body["name"] = instance.name
    if mounts:
        body["file_system_mounts"] = mounts
    if spec.firewall_ruleset_ids:
        body["firewall_rulesets"] = [{"id": i} for i in spec.firewall_ruleset_ids]
    if instance.address is not None:
        body["ip"] = instance.address.ip
        if private_ip:
            body["private_ip"] = instance.address.private_ip
        default_host = "ip-" + instance.address.private_ip.replace(".", "-")
        body["hostname"] = spec.hostname or default_host
    if status == "active":
        token = _jupyter_token(instance)
        body["jupyter_token"] = token
        body["jupyter_url"] = f"https://jupyter-{instance.id}.lambdaspaces.com/?token={token}"
    return body


def _jupyter_token(instance: Instance) -> str:
    return hashlib.sha256(f"jupyter {instance.id}".encode()).hexdigest()[:32]


@cache
def _actions(status: str) -> dict[str, Any]:
    yes: dict[str, Any] = {"available": True}

    def no(code: str, why: str) -> dict[str, Any]:
        return {"available": False, "reason_code": code, "reason_description": why}

    if status in ENDED:
        blocked = no("vm-is-terminating", "Instance is terminating.")
        return dict.fromkeys(("migrate", "rebuild", "restart", "cold_reboot", "terminate"), blocked)
    if status == "booting":
        blocked = no("vm-has-not-launched", "Instance has not launched yet.")
        actions = dict.fromkeys(("migrate", "rebuild", "restart", "cold_reboot"), blocked)
        return {**actions, "terminate": yes}
    return dict.fromkeys(("migrate", "rebuild", "restart", "cold_reboot", "terminate"), yes)


def billed_minutes(instance: Instance, now: float) -> int:
    """Minutes billed up to `now`, each started one counted in full."""
    if instance.metered_from is None:
        return 0
    until = now if instance.metered_until is None else instance.metered_until
    # A meter that stopped as it started has still started its first minute.
    return max(1, math.ceil((until - instance.metered_from) / 60))


def cost_cents(instances: Iterable[Instance], now: float) -> float:
    """The cost of the instances up to `now` in cents; whole numbers until the last division."""
    return sum(billed_minutes(i, now) * i.type.price_cents_per_hour for i in instances) / 60


def ledger(instances: Iterable[Instance], now: float) -> dict[str, Any]:
    """The JSON of `/sim/ledger`: every instance there ever was with its cost, and the sums."""
    rows = [_row(i, now) for i in instances]
    return {
        "now": now,
        "instances": len(rows),
        "alive": sum(r["alive"] for r in rows),
        "minutes": sum(r["minutes"] for r in rows),
        "cents": sum(r["minutes"] * r["price_cents_per_hour"] for r in rows) / 60,
        "rows": rows,
    }


def _row(i: Instance, now: float) -> dict[str, Any]:
    return {
        "id": i.id,
        "name": i.name,
        "instance_type": i.type.name,
        "region": i.spec.region,
        "tags": i.tags,
        "status": i.status,
        "ip": i.address.ip if i.address else None,
        "alive": i.alive,
        "ailments": sorted(i.faults),  # the name that clients of /sim/ledger read
        "launched_at": i.launched_at,
        "ended_at": i.ended_at,
        "metered_from": i.metered_from,
        "metered_until": i.metered_until,
        "minutes": billed_minutes(i, now),
        "price_cents_per_hour": i.type.price_cents_per_hour,
        "cents": cost_cents([i], now),
        "history": [{"at": at, "status": status} for at, status in i.history],
    }
