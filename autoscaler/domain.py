"""The nouns of the provider: frozen, without I/O, money in integer cents, time in epoch seconds."""

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field


class Status(enum.StrEnum):
    """An instance's status. UNKNOWN stands for one that Lambda has added since."""

    BOOTING = "booting"
    ACTIVE = "active"
    UNHEALTHY = "unhealthy"
    TERMINATING = "terminating"
    TERMINATED = "terminated"
    PREEMPTED = "preempted"
    UNKNOWN = "unknown"

    @property
    def is_terminating_or_gone(self) -> bool:
        """True once the machine is on its way out: Ray must not count on it."""
        return self in (Status.TERMINATING, Status.TERMINATED, Status.PREEMPTED)

    @property
    def is_gone(self) -> bool:
        """True once nothing runs on the machine any more."""
        return self in (Status.TERMINATED, Status.PREEMPTED)


class Lane(enum.StrEnum):
    """Kinds of request, by how they share the account's rate (`rate_limit`)."""

    TERMINATE = "terminate"
    GENERAL = "general"
    LAUNCH = "launch"


@dataclass(frozen=True, order=True, slots=True)
class Offering:
    """Where a machine could be: one instance type in one region."""

    instance_type: str
    region: str

    def __str__(self) -> str:
        return f"{self.instance_type} in {self.region}"


@dataclass(frozen=True, slots=True)
class InstanceType:
    """One instance type. `price_cents_per_hour` is for the whole machine; None is unknown."""

    name: str
    description: str
    gpu_description: str
    price_cents_per_hour: int | None
    vcpus: int
    memory_gib: int
    storage_gib: int
    gpus: int

    @property
    def architecture(self) -> str:
        return architecture_of(self.name)


def architecture_of(instance_type: str) -> str:
    """ "arm64" for the Grace machines (GH200, GB200, GB300), else "x86_64".

    The API gives the architecture of images only, so the type's name decides.
    """
    return "arm64" if re.search(r"_g[bh]\d", instance_type) else "x86_64"


@dataclass(frozen=True, slots=True)
class TypeOffer:
    """What the API says of a type now. `regions` have capacity, as advertised: a hint only."""

    instance_type: InstanceType
    regions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Region:
    name: str
    description: str


@dataclass(frozen=True, slots=True)
class Instance:
    """One machine as the API shows it. Its Jupyter token is a credential and is never read.

    `ip` and `private_ip` are None until known; `tags` are the ones given at launch. Of one that
    `is_partial` some of Lambda's record could not be read, and is as if it were not known.
    """

    id: str
    status: Status
    region: str
    instance_type: InstanceType
    name: str = ""
    ip: str | None = None
    private_ip: str | None = None
    hostname: str | None = None
    ssh_key_names: tuple[str, ...] = ()
    file_system_names: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict[str, str], hash=False)
    is_partial: bool = False

    @property
    def offering(self) -> Offering:
        return Offering(self.instance_type.name, self.region)


@dataclass(frozen=True, slots=True)
class SSHKey:
    id: str
    name: str
    public_key: str


@dataclass(frozen=True, slots=True)
class FileSystem:
    id: str
    name: str
    mount_point: str
    region: str
    is_in_use: bool


@dataclass(frozen=True, slots=True)
class Image:
    id: str
    name: str
    family: str
    version: str
    architecture: str
    region: str


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """One machine to launch. `user_data` may hold secrets and is kept out of the repr."""

    region: str
    instance_type: str
    ssh_key_name: str
    name: str
    tags: Mapping[str, str] = field(default_factory=dict[str, str], hash=False)
    hostname: str | None = None
    image_family: str | None = None
    file_system_names: tuple[str, ...] = ()
    firewall_ruleset_ids: tuple[str, ...] = ()
    user_data: str | None = field(default=None, repr=False)

    @property
    def offering(self) -> Offering:
        return Offering(self.instance_type, self.region)


@dataclass(frozen=True, slots=True)
class Charge:
    """What one machine costs or cost. `ended_s` is None while it bills."""

    price_cents_per_hour: int | None
    started_s: float
    ended_s: float | None = None
