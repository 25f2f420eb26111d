"""Instances, types, regions and keys as frozen records: no I/O, cents, epoch seconds.

The annotations also say how a record is read from Lambda's JSON (`lambda_cloud.wire`): where
a field lies, and what stands for one that is not there. Unknown fields are ignored; a field
without a default decides something, and its record cannot be read without it. Python code
constructs the records as plain dataclasses, unchecked.
"""

import enum
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import (
    AliasPath,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from autoscaler.errors import AuthError


def or_default(default: object) -> WrapValidator:
    """For a field that decides nothing: a value that cannot be read is `default`."""

    def read(value: object, validate: ValidatorFunctionWrapHandler) -> object:
        try:
            return validate(value)
        except ValidationError:
            return default

    return WrapValidator(read)


Text = Annotated[str, Field(strict=True, min_length=1)]
OptionalText = Annotated[Text | None, or_default(None)]
WholeNumber = Annotated[int, Field(strict=True, ge=0)]
Amount = Annotated[WholeNumber, or_default(0)]


class Status(enum.StrEnum):
    """An instance's status. UNKNOWN stands for one that Lambda has added since."""

    BOOTING = "booting"
    ACTIVE = "active"
    UNHEALTHY = "unhealthy"
    TERMINATING = "terminating"
    TERMINATED = "terminated"
    PREEMPTED = "preempted"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> "Status | None":
        return cls.UNKNOWN if isinstance(value, str) and value else None

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

    name: Text
    price_cents_per_hour: Annotated[WholeNumber | None, or_default(None)] = None
    vcpus: Annotated[Amount, Field(validation_alias=AliasPath("specs", "vcpus"))] = 0
    memory_gib: Annotated[Amount, Field(validation_alias=AliasPath("specs", "memory_gib"))] = 0
    gpus: Annotated[Amount, Field(validation_alias=AliasPath("specs", "gpus"))] = 0

    @property
    def architecture(self) -> str:
        return architecture_of(self.name)


def architecture_of(instance_type: str) -> str:
    """ "arm64" for the Grace machines (GH200, GB200, GB300), else "x86_64".

    The API gives the architecture of images only, so the type's name decides.
    """
    return "arm64" if re.search(r"_g[bh]\d", instance_type) else "x86_64"


@dataclass(frozen=True, slots=True)
class Region:
    name: Text


@dataclass(frozen=True, slots=True)
class Tag:
    key: Text
    value: Annotated[str, or_default("")] = ""


_regions = TypeAdapter(tuple[Region, ...])
_tags = TypeAdapter(tuple[Tag, ...])


def _region_names(value: object) -> list[str]:
    return [region.name for region in _regions.validate_python(value or ())]


def _tags_by_key(value: object) -> dict[str, str]:
    return {tag.key: tag.value for tag in _tags.validate_python(value or ())}


@dataclass(frozen=True, slots=True)
class TypeOffer:
    """What the API says of a type now. `regions` have capacity, as advertised: a hint only."""

    instance_type: InstanceType
    regions: Annotated[
        tuple[str, ...],
        Field(validation_alias="regions_with_capacity_available"),
        BeforeValidator(_region_names),
    ] = ()


RegionName = Annotated[Text, Field(validation_alias=AliasPath("region", "name"))]


@dataclass(frozen=True, slots=True)
class Instance:
    """One machine as the API shows it. Its Jupyter token is a credential and is never read.

    `ip` and `private_ip` are None until known; `tags` are the ones given at launch. Of one that
    `is_partial` some of Lambda's record could not be read, and is as if it were not known.
    """

    id: Text
    status: Status
    region: RegionName
    instance_type: InstanceType
    name: Annotated[str, or_default("")] = ""
    ip: OptionalText = None
    private_ip: OptionalText = None
    tags: Annotated[Mapping[str, str], BeforeValidator(_tags_by_key)] = field(
        default_factory=dict[str, str], hash=False
    )
    is_partial: bool = False

    @property
    def offering(self) -> Offering:
        return Offering(self.instance_type.name, self.region)


@dataclass(frozen=True, slots=True)
class SSHKey:
    name: Text
    public_key: Text


@dataclass(frozen=True, slots=True)
class FileSystem:
    name: Text
    region: RegionName


@dataclass(frozen=True, slots=True)
class Image:
    family: Text
    architecture: Text


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


class ApiKey:
    """The account's key. repr, str, pickle and errors never show it; `reveal()` does."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        if not value or not value.isascii() or not value.isprintable() or " " in value:
            raise AuthError("the API key is empty or holds blanks or control characters")
        self._value = value

    def reveal(self) -> str:
        return self._value

    @property
    def account(self) -> str:
        """A short fingerprint that names the account in the local state, not the key itself."""
        return hashlib.sha256(self._value.encode()).hexdigest()[:12]

    def redact(self, text: str) -> str:
        return text.replace(self._value, "[api key]")

    def __repr__(self) -> str:
        return f"ApiKey(account={self.account})"

    def __reduce__(self) -> str:
        raise TypeError("an API key is not pickled: each process reads its own")
