"""The simulated cloud: a state machine over an injected clock, with an agenda of what is due.

Nothing happens between calls: `settle` carries out every boot, fault and end that has come due,
in the order of their times. The caller of a public method holds `lock`, as `Simulation` and
`Api` do.
"""

import hashlib
import heapq
import random
import threading
from collections.abc import Callable
from fnmatch import fnmatchcase

from autoscaler.simulator.cloud import errors
from autoscaler.simulator.cloud.account import Account
from autoscaler.simulator.cloud.clock import Clock
from autoscaler.simulator.cloud.config import CloudConfig
from autoscaler.simulator.cloud.fault_registry import FaultRegistry
from autoscaler.simulator.cloud.faults import AT_LAUNCH, Fault, InstanceFault
from autoscaler.simulator.cloud.instances import Instance, LaunchSpec
from autoscaler.simulator.cloud.launch import blueprint, check_names
from autoscaler.simulator.cloud.offers import TYPES, Capacity
from autoscaler.simulator.machines.machines import Machines

Action = Callable[[float], None]
"""An entry of the agenda, called with the cloud time at which it was due."""


class Cloud:
    """One account with its instances, past and present."""

    def __init__(self, config: CloudConfig, clock: Clock, machines: Machines) -> None:
        self.config = config
        self.clock = clock
        self.lock = threading.RLock()
        self.account = Account(config)
        self.faults = FaultRegistry()
        self.capacity = Capacity(config, clock.now())
        self.instances: dict[str, Instance] = {}
        """Every instance there ever was, by id, oldest first."""
        self.burn_cents_per_hour = 0
        self.peak_burn_cents_per_hour = 0
        self._machines = machines
        self._known: dict[str, Instance] = {}
        self._agenda: list[tuple[float, int, Action]] = []
        self._planned = 0
        self._refusals = random.Random(f"{config.seed} refusals")
        self._omissions = random.Random(f"{config.seed} omissions")

    # ---- time

    def _plan(self, due: float, action: Action) -> None:
        self._planned += 1
        heapq.heappush(self._agenda, (due, self._planned, action))

    def settle(self) -> float:
        """Carries out what has come due; returns the cloud time now."""
        now = self.clock.now()
        while self._agenda and self._agenda[0][0] <= now:
            due, _, action = heapq.heappop(self._agenda)
            action(due)
        return now

    # ---- launch

    def admit(self, spec: LaunchSpec) -> None:
        """Raises ApiError if the cloud refuses this launch now."""
        check_names(spec, self.account, self.config.launch_not_found_status)
        quota = self.config.max_instances
        if quota is not None and sum(i.alive for i in self._known.values()) >= quota:
            raise errors.quota_exceeded("instances")
        now = self.clock.now()
        refused = self._refusals.random() < self.config.refused_chance
        is_open = self.capacity.open(spec.instance_type, spec.region, now)
        if refused or not is_open or self.faults.stockout(spec.instance_type, spec.region, now):
            raise errors.insufficient_capacity()

    def commit(self, spec: LaunchSpec, at: float | None = None) -> Instance:
        """Makes the instance of an admitted launch."""
        now = self.clock.now() if at is None else at
        c = self.config
        number = len(self.instances) + 1
        rng = random.Random(f"{c.seed} instance {number}")
        boot_s = rng.uniform(*c.boot_s[TYPES[spec.instance_type].size_class])
        ip_at = now + boot_s * rng.uniform(*c.ip_at)
        instance = Instance(
            number=number,
            id=hashlib.sha256(f"{c.seed} instance {number}".encode()).hexdigest()[:32],
            spec=spec,
            launched_at=now,
            listed_from=now + rng.uniform(*c.list_lag_s),
            history=[(now, "booting")],
            name=spec.name,
            terminating_s=rng.uniform(*c.terminating_s),
        )
        self.instances[instance.id] = self._known[instance.id] = instance
        if c.billing_from == "launch":
            instance.metered_from = now
        self.burn_cents_per_hour += instance.type.price_cents_per_hour
        self.peak_burn_cents_per_hour = max(self.peak_burn_cents_per_hour, self.burn_cents_per_hour)
        for fault in self.faults.instance_faults(spec.instance_type, spec.region, now):
            self._inject(instance, fault, now)
        self._draw_faults(instance, rng, now + boot_s)
        self._machines.start(blueprint(instance, self.account))
        self._plan(ip_at, lambda due: self._address(instance, due))
        self._plan(now + boot_s, lambda due: self._activate(instance, due))
        return instance

    def commit_later(self, spec: LaunchSpec, after_s: float) -> None:
        """Makes the instance of an admitted launch `after_s` cloud seconds from now."""

        def commit(due: float) -> None:
            self.commit(spec, due)

        self._plan(self.clock.now() + after_s, commit)

    def _draw_faults(self, instance: Instance, rng: random.Random, active_at: float) -> None:
        # All are drawn, whatever their chance: one chance must not move the others' draws.
        stuck, dead, unhealthy, preempted = (rng.random() for _ in range(4))
        unhealthy_at, preempted_at = (
            active_at + rng.uniform(0, self.config.fails_within_s) for _ in range(2)
        )
        if stuck < self.config.stuck_booting_chance:
            instance.faults.add("stuck_booting")
        if dead < self.config.dead_cuda_chance:
            instance.faults.add("dead_cuda")
        if unhealthy < self.config.unhealthy_chance:
            self._plan(unhealthy_at, lambda due: self._degrade(instance, "unhealthy", due))
        if preempted < self.config.preempted_chance:
            self._plan(preempted_at, lambda due: self._degrade(instance, "preempt", due))

    # ---- life

    def _address(self, instance: Instance, at: float) -> None:
        if instance.alive and instance.address is None:
            instance.address = self._machines.address(instance.id)
            if instance.address is None:
                self._plan(at + 1, lambda due: self._address(instance, due))

    def _activate(self, instance: Instance, at: float) -> None:
        if instance.status != "booting" or "stuck_booting" in instance.faults:
            return
        self._address(instance, at)
        # A machine that restarts has its address already, but may not answer yet.
        if self._machines.address(instance.id) is None:
            self._plan(at + 1, lambda due: self._activate(instance, due))
            return
        instance.history.append((at, "active"))
        if instance.metered_from is None:
            instance.metered_from = at

    def add_fault(self, fault: Fault) -> int:
        """Adds a fault and returns its number. ValueError for an unknown instance."""
        now = self.clock.now()
        if isinstance(fault, InstanceFault) and fault.instance_id is not None:
            if fault.instance_id not in self._known:
                raise ValueError(f"instance_id: {fault.instance_id[:64]} is unknown")
            self._inject(self._known[fault.instance_id], fault, now)
        return self.faults.add(fault, now)

    def _inject(self, instance: Instance, fault: InstanceFault, at: float) -> None:
        what = fault.what
        if what in AT_LAUNCH:
            instance.faults.add(what)
        else:
            self._plan(at + fault.after_s, lambda due: self._degrade(instance, what, due))

    def _degrade(self, instance: Instance, what: str, at: float) -> None:
        if not instance.alive:
            return
        instance.faults.add(what)
        if what == "unhealthy":
            instance.history.append((at, "unhealthy"))
        elif what == "shutdown":
            self._machines.stop(instance.id)
            if self.config.status_after_shutdown != instance.status:
                instance.history.append((at, self.config.status_after_shutdown))
        else:
            self._end(instance, "preempted", at)
            instance.metered_until = at
            self._plan(at + self._remembered_s("preempted"), lambda _: self._forget(instance))

    # ---- end

    def _end(self, instance: Instance, status: str, at: float) -> None:
        instance.history.append((at, status))
        instance.ended_at = at
        self.burn_cents_per_hour -= instance.type.price_cents_per_hour
        self._machines.stop(instance.id)

    def _remembered_s(self, status: str) -> float:
        listed_s = self.config.preempted_listed_s
        if status == "terminated":
            listed_s = self.config.terminated_listed_s
        return max(listed_s, self.config.terminated_known_s)

    def _forget(self, instance: Instance) -> None:
        del self._known[instance.id]

    def _terminated(self, instance: Instance, at: float) -> None:
        instance.history.append((at, "terminated"))
        if self.config.billing_until == "terminated":
            instance.metered_until = at
        self._plan(at + self._remembered_s("terminated"), lambda _: self._forget(instance))

    def terminate(self, ids: list[str]) -> list[Instance]:
        """Terminates instances. One that has ended is unknown, like one that never was."""
        found = [self._known.get(i) for i in dict.fromkeys(ids)]
        known = [i for i in found if i and i.status not in ("terminated", "preempted")]
        skip = self.config.terminate_unknown == "skip" and known
        if len(known) < len(found) and not skip:
            raise errors.does_not_exist("Specified instance")
        if self.config.terminate_again == "unknown-error" and any(not i.alive for i in known):
            raise errors.ApiError(400, "global/unknown", "Unknown error.")
        now = self.clock.now()
        for instance in known:
            if instance.alive:
                self._end(instance, "terminating", now)
                if self.config.billing_until == "request":
                    instance.metered_until = now
                gone_at = now + instance.terminating_s
                self._plan(gone_at, lambda due, i=instance: self._terminated(i, due))
        return known

    def restart(self, ids: list[str]) -> list[Instance]:
        """Restarts instances; 409 for one that does not run."""
        found = [self.get(i) for i in dict.fromkeys(ids)]
        if any(i.status not in ("active", "unhealthy") for i in found):
            raise errors.conflict("Instance is not running.")
        now = self.clock.now()
        for instance in found:
            self._machines.stop(instance.id)
            self._machines.start(blueprint(instance, self.account))
            instance.faults -= {"shutdown", "unhealthy"}
            instance.history.append((now, "booting"))
            up_at = now + self.config.restart_s
            self._plan(up_at, lambda due, i=instance: self._activate(i, due))
        return found

    # ---- reading

    def get(self, instance_id: str) -> Instance:
        """The instance of this id; ApiError 404 if it is unknown or was forgotten after its end."""
        instance = self._known.get(instance_id)
        if instance is None:
            raise errors.does_not_exist("Specified instance")
        return instance

    def listed(self) -> list[tuple[Instance, str]]:
        """What `GET /instances` shows now, oldest first, each with the status that it shows."""
        now = self.clock.now()
        at = now - self.faults.list_age_s(now)
        lag_s = self.faults.list_lag_s(now)
        omitted = self.faults.omitted(now)
        rows = []
        for i in self._known.values():
            status = self._listed_status(i, at, lag_s)
            if status is None or any(fnmatchcase(i.id, pattern) for pattern in omitted):
                continue
            if self._omissions.random() >= self.config.omitted_chance:
                rows.append((i, status))
        return rows

    def _listed_status(self, instance: Instance, at: float, lag_s: float) -> str | None:
        if at < max(instance.listed_from, instance.launched_at + lag_s):
            return None
        status = instance.status_at(at)
        began = instance.history[-1][0]
        if status == "terminated" and at - began >= self.config.terminated_listed_s:
            return None
        if status == "preempted" and at - began >= self.config.preempted_listed_s:
            return None
        return status

    def file_system_in_use(self, name: str, fs_id: str) -> bool:
        """Whether an instance that has not ended mounts the file system."""
        return any(
            name in i.spec.file_system_names or fs_id in (m for _, m in i.spec.mounts)
            for i in self._present()
        )

    def instances_behind(self, ruleset_id: str) -> list[str]:
        """Ids of the instances with the firewall ruleset that have not ended."""
        return [i.id for i in self._present() if ruleset_id in i.spec.firewall_ruleset_ids]

    def _present(self) -> list[Instance]:
        return [i for i in self._known.values() if i.status not in ("terminated", "preempted")]
