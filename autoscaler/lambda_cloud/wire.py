"""Lambda's JSON -> `autoscaler.domain`, after the Lambda Cloud API 1.10.0.

The domain's classes say how each field is read. Here are the shapes of whole answers, the one
error for what cannot be read, and the instances, of which none may be lost by a bad field.
"""

import logging
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, TypeAlias, TypeVar, cast

from pydantic import AliasPath, Field, TypeAdapter, ValidationError

from autoscaler.domain import Instance, OptionalText, Status, Tag, Text, or_default
from autoscaler.errors import ProtocolError

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
T = TypeVar("T")

UNREADABLE = "?"
"""The region and the type of an instance whose record does not tell them."""

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
