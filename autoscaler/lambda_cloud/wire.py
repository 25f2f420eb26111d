"""Lambda's JSON to and from `autoscaler.domain`, after the Lambda Cloud API 1.10.0.

The domain's classes say how each field is read. Here are the shapes of whole answers, the one
error for what cannot be read, and the instances, of which none may be lost by a bad field; and
the launch as Lambda takes it: what it would refuse is refused here, before anything is sent.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, TypeAlias, TypeVar, cast

from pydantic import AliasPath, Field, TypeAdapter, ValidationError

from autoscaler.domain import Instance, LaunchRequest, OptionalText, Status, Tag, Text, or_default
from autoscaler.errors import ConfigError, ProtocolError

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
T = TypeVar("T")

UNREADABLE = "?"
"""The region and the type of an instance whose record does not tell them."""

MAX_NAME_CHARS = 64
MAX_USER_DATA_BYTES = 1_000_000
MAX_TAG_KEY_CHARS = 55
MAX_TAG_VALUE_CHARS = 128
_TAG_KEY = re.compile(r"[a-z][a-z0-9:-]+")
_HOSTNAME = re.compile(r"[a-z0-9][0-9a-z-]{0,62}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list; `page_token` asks for the next."""

    data: tuple[object, ...]
    page_token: OptionalText = None


@dataclass(frozen=True, slots=True)
class OneRecord:
    data: object


@dataclass(frozen=True, slots=True)
class Launched:
    instance_ids: Annotated[
        tuple[Text, ...], Field(validation_alias=AliasPath("data", "instance_ids"))
    ]


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """Lambda's error envelope; a proxy's answer has none."""

    code: Annotated[OptionalText, Field(validation_alias=AliasPath("error", "code"))] = None
    message: Annotated[
        str, Field(validation_alias=AliasPath("error", "message")), or_default("")
    ] = ""


def read(kind: type[T], value: object, where: str) -> T:
    """`where` is the value's path in the answer. Raises ProtocolError with the path of the first
    field that is missing or cannot be read; it never shows the value, which may be a secret."""
    try:
        return _validate(kind, value)
    except ValidationError as error:
        raise ProtocolError(_first_problem(error, where)) from None


def read_instance(value: object, where: str) -> Instance:
    """An instance, as far as its record can be read; ProtocolError only where there is no id."""
    try:
        instance = _validate(Instance, value)
    except ValidationError as error:
        instance = _read_in_part(value, error, where)
        _warn_unreadable(instance.id, _first_problem(error, where))
    if instance.status is Status.UNKNOWN and isinstance(value, dict):
        _warn_unknown_status(str(cast(dict[str, object], value).get("status")))
    return instance


def _read_in_part(value: object, error: ValidationError, where: str) -> Instance:
    """What cannot be read is as if Lambda had not sent it."""
    record = cast(dict[str, Any], value if isinstance(value, dict) else {})
    unreadable = {problem["loc"][0] for problem in error.errors() if problem["loc"]}
    known = {name: field for name, field in record.items() if name not in unreadable}
    if isinstance(tags := record.get("tags"), list):
        known["tags"] = [tag for tag in cast(list[object], tags) if _is_readable(Tag, tag)]
    unknown = {
        "status": Status.UNKNOWN,
        "region": {"name": UNREADABLE},
        "instance_type": {"name": UNREADABLE},
    }
    return replace(read(Instance, unknown | known, where), is_partial=True)


def _is_readable(kind: type[object], value: object) -> bool:
    try:
        _validate(kind, value)
    except ValidationError:
        return False
    return True


def _validate(kind: type[T], value: object) -> T:
    return _adapter(kind).validate_python(value)


@cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)


def _first_problem(error: ValidationError, where: str) -> str:
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in problem["loc"])
    return f"Lambda's answer: {where}{''.join(steps)}: {problem['msg']}"


@cache
def _warn_unreadable(instance_id: str, problem: str) -> None:
    """Once per instance, problem and process: the list is read every few seconds."""
    logger.warning("instance %.40s is read in part: %s", instance_id, problem)


@cache
def _warn_unknown_status(status: str) -> None:
    """Once per status and process."""
    logger.warning("Lambda reports an instance status we do not know: %.40r", status)


def check_tags(tags: Mapping[str, str]) -> None:
    """Raises ConfigError for what Lambda would refuse as a launch tag."""
    for key, value in tags.items():
        if len(key) > MAX_TAG_KEY_CHARS or not _TAG_KEY.fullmatch(key):
            raise ConfigError(
                f"tag {key!r}: a key has at most {MAX_TAG_KEY_CHARS} of a-z, 0-9, '-', ':' "
                "and starts with a letter"
            )
        if len(value) > MAX_TAG_VALUE_CHARS:
            raise ConfigError(
                f"tag {key!r}: its value has {len(value)} characters, "
                f"Lambda takes {MAX_TAG_VALUE_CHARS}"
            )


def check_launch(request: LaunchRequest) -> None:
    """Raises ConfigError, naming the field, for what Lambda would refuse; sends nothing."""
    if len(request.name) > MAX_NAME_CHARS:
        raise ConfigError(
            f"name: {request.name!r} has {len(request.name)} characters, "
            f"Lambda takes {MAX_NAME_CHARS}"
        )
    if request.hostname is not None and not _HOSTNAME.fullmatch(request.hostname):
        raise ConfigError(
            f"hostname: {request.hostname!r} must be 1 to 63 of a-z, 0-9 and '-', not '-' first"
        )
    if len((request.user_data or "").encode()) > MAX_USER_DATA_BYTES:
        raise ConfigError(f"user_data: Lambda takes at most {MAX_USER_DATA_BYTES} bytes")
    for field in ("region", "instance_type", "ssh_key_name"):
        if not getattr(request, field):
            raise ConfigError(f"{field}: must not be empty")
    check_tags(request.tags)


def write_launch(request: LaunchRequest) -> dict[str, Json]:
    """The body of a launch: one machine, exactly one SSH key, empty options left out."""
    body: dict[str, Json] = {
        "region_name": request.region,
        "instance_type_name": request.instance_type,
        "ssh_key_names": [request.ssh_key_name],
        "name": request.name,
        "tags": [{"key": key, "value": value} for key, value in sorted(request.tags.items())],
    }
    if request.hostname is not None:
        body["hostname"] = request.hostname
    if request.image_family is not None:
        body["image"] = {"family": request.image_family}
    if request.file_system_names:
        body["file_system_names"] = list(request.file_system_names)
    if request.firewall_ruleset_ids:
        body["firewall_rulesets"] = [{"id": id_} for id_ in request.firewall_ruleset_ids]
    if request.user_data is not None:
        body["user_data"] = request.user_data
    return body
