"""The registry of injected faults: which are in force, and what they do to a call or a launch."""

import math
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, TypeVar, get_args

from autoscaler.simulator.cloud.faults import (
    INSTANCE_FAULTS,
    AccountInactive,
    FailNext,
    Fault,
    InstanceFault,
    ListLag,
    Omit,
    Outage,
    RevokeKey,
    StaleList,
    Stockout,
)

F = TypeVar("F")

_KINDS: dict[str, type] = {t.kind: t for t in get_args(Fault) if t is not InstanceFault}
_KINDS.update(dict.fromkeys(INSTANCE_FAULTS, InstanceFault))


def fault_from_json(body: Any) -> Fault:
    """The fault of `{"kind": ..., fields}`. ValueError names the field that is wrong."""
    if not isinstance(body, dict) or body.get("kind") not in _KINDS:
        raise ValueError(f"kind: not one of {', '.join(sorted(_KINDS))}")
    kind = body["kind"]
    given = {k: v for k, v in body.items() if k != "kind"}
    if _KINDS[kind] is InstanceFault:
        given["what"] = kind
    if given.get("to_s", 0) is None:
        given["to_s"] = math.inf
    known = {f.name: f for f in fields(_KINDS[kind])}
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"{name}: {kind} has no such field, only {', '.join(known)}")
        if not _fits(value, _field_types(name, known[name].default)):
            raise ValueError(f"{name}: {value!r} is of the wrong type")
    return _KINDS[kind](**given)


def _field_types(name: str, default: object) -> tuple[type, ...]:
    """The JSON types of a field: that of its default, or of its union."""
    if name == "failure":
        return (int, str)
    if name in ("what", "instance_id", "key"):
        return (str,)
    return (int, float) if isinstance(default, float) else (type(default),)


def _fits(value: object, types: tuple[type, ...]) -> bool:
    # JSON's true is a Python int as well.
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


@dataclass
class _Entry:
    fault: Fault
    added_at: float
    left: int | None

    def in_force(self, at: float) -> bool:
        if self.left == 0:
            return False
        if isinstance(self.fault, Stockout | Outage):
            return self.fault.from_s <= at - self.added_at < self.fault.to_s
        return True


class FaultRegistry:
    """Faults by number, in the order they were added; the first that matches applies.

    A fault with an `n` applies `n` times: a method that returns one counts it off. Callers hold
    the cloud's lock.
    """

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}
        self._next = 1

    def add(self, fault: Fault, now: float) -> int:
        """Adds a fault and returns its number."""
        number, self._next = self._next, self._next + 1
        self._entries[number] = _Entry(fault, now, getattr(fault, "n", None))
        return number

    def remove(self, number: int) -> bool:
        """Removes a fault; False when there is none of this number."""
        return self._entries.pop(number, None) is not None

    def clear(self) -> None:
        """Removes every fault."""
        self._entries.clear()

    def to_json(self) -> list[dict[str, Any]]:
        """Every fault with its number, when it was added, and how often it still applies."""
        rows = []
        for number, e in self._entries.items():
            body = {k: None if v == math.inf else v for k, v in asdict(e.fault).items()}
            body.pop("what", None)
            row = {"id": number, "kind": e.fault.kind, "added_at": e.added_at, "left": e.left}
            rows.append({**row, **body})
        return rows

    def _in_force(self, kind: type[F], at: float) -> list[tuple[_Entry, F]]:
        return [
            (e, e.fault)
            for e in self._entries.values()
            if isinstance(e.fault, kind) and e.in_force(at)
        ]

    def stockout(self, instance_type: str, region: str, at: float) -> Stockout | None:
        """The stockout of an offering, if any; one that hides it comes before one that does not."""
        found = [
            f
            for _, f in self._in_force(Stockout, at)
            if fnmatchcase(instance_type, f.instance_type) and fnmatchcase(region, f.region)
        ]
        return min(found, key=lambda f: f.advertised, default=None)

    def failure(self, endpoint: str, at: float) -> FailNext | Outage | None:
        """The failure of a call, if any."""
        for _, outage in self._in_force(Outage, at):
            if outage.endpoint in ("*", endpoint):
                return outage
        for entry, fail in self._in_force(FailNext, at):
            if fail.endpoint in ("*", endpoint):
                _count_off(entry)
                return fail
        return None

    def list_lag_s(self, at: float) -> float:
        """The age below which the list omits an instance."""
        return max((f.list_lag_s for _, f in self._in_force(ListLag, at)), default=0.0)

    def list_age_s(self, at: float) -> float:
        """The age of the list; 0 for a current one."""
        return max((f.age_s for _, f in self._in_force(StaleList, at)), default=0.0)

    def omitted(self, at: float) -> tuple[str, ...]:
        """Patterns of the ids that this one list omits."""
        found = self._in_force(Omit, at)
        for entry, _ in found:
            _count_off(entry)
        return tuple(f.instance_id for _, f in found)

    def instance_faults(self, instance_type: str, region: str, at: float) -> list[InstanceFault]:
        """The faults of a launch's instance."""
        found = []
        for entry, f in self._in_force(InstanceFault, at):
            if f.instance_id is not None:
                continue
            if fnmatchcase(instance_type, f.instance_type) and fnmatchcase(region, f.region):
                _count_off(entry)
                found.append(f)
        return found

    def revoked(self, key: str, at: float) -> bool:
        """Whether a key is revoked."""
        return any(f.key in (None, key) for _, f in self._in_force(RevokeKey, at))

    def account_inactive(self, at: float) -> bool:
        """Whether the account is inactive."""
        return bool(self._in_force(AccountInactive, at))


def _count_off(entry: _Entry) -> None:
    if entry.left is not None:
        entry.left -= 1
