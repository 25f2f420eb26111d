"""Lambda's JSON <-> `autoscaler.domain`, after the Lambda Cloud API 1.10.0.

Unknown fields are ignored, descriptive ones may be absent. A missing field that decides
anything (an id, a status, a region, a type's name) raises ProtocolError with its path.
"""

import logging
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import TypeAlias, cast

from autoscaler.domain import (
    FileSystem,
    Image,
    Instance,
    InstanceType,
    Region,
    SSHKey,
    Status,
    TypeOffer,
)
from autoscaler.errors import ProtocolError

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

logger = logging.getLogger(__name__)


class Node:
    """One JSON value that knows where in the answer it lies."""

    def __init__(self, value: object, path: str) -> None:
        self._value = value
        self._path = path

    def _fail(self, problem: str) -> ProtocolError:
        return ProtocolError(f"Lambda's answer: {self._path} {problem}")

    def child(self, key: str) -> "Node":
        return Node(self._fields().get(key), f"{self._path}.{key}")

    def items(self) -> Iterator[tuple[str, "Node"]]:
        for key, value in self._fields().items():
            yield key, Node(value, f"{self._path}.{key}")

    def _fields(self) -> dict[str, object]:
        value = self._value
        if not isinstance(value, dict):
            raise self._fail("is not an object")
        return cast(dict[str, object], value)

    def each(self) -> Iterator["Node"]:
        """The items of an array; none where the field is absent or null."""
        value = self._value
        if value is None:
            return
        if not isinstance(value, list):
            raise self._fail("is not an array")
        for index, item in enumerate(cast(list[object], value)):
            yield Node(item, f"{self._path}[{index}]")

    def text(self) -> str:
        if not isinstance(self._value, str) or not self._value:
            raise self._fail("is not a text")
        return self._value

    def text_or(self, default: str) -> str:
        return self._value if isinstance(self._value, str) else default

    def text_or_none(self) -> str | None:
        return self.text_or("") or None

    def count_or_none(self) -> int | None:
        """A whole number >= 0, else None."""
        value = self._value
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            return None
        return value

    def is_true(self) -> bool:
        return self._value is True

    def is_present(self) -> bool:
        return self._value is not None


def read_instance_type(node: Node) -> InstanceType:
    specs = node.child("specs") if node.child("specs").is_present() else Node({}, "specs")
    return InstanceType(
        name=node.child("name").text(),
        description=node.child("description").text_or(""),
        gpu_description=node.child("gpu_description").text_or(""),
        price_cents_per_hour=node.child("price_cents_per_hour").count_or_none(),
        vcpus=specs.child("vcpus").count_or_none() or 0,
        memory_gib=specs.child("memory_gib").count_or_none() or 0,
        storage_gib=specs.child("storage_gib").count_or_none() or 0,
        gpus=specs.child("gpus").count_or_none() or 0,
    )


def read_type_offer(node: Node) -> TypeOffer:
    regions = node.child("regions_with_capacity_available").each()
    return TypeOffer(
        read_instance_type(node.child("instance_type")),
        tuple(region.child("name").text() for region in regions),
    )


def read_status(node: Node) -> Status:
    text = node.text()
    try:
        return Status(text)
    except ValueError:
        _say_unknown_status(text)
        return Status.UNKNOWN


@cache
def _say_unknown_status(text: str) -> None:
    """Once per status and process: the list is read every few seconds."""
    logger.warning("Lambda reports an instance status we do not know: %.40r", text)


def read_region(node: Node) -> Region:
    return Region(node.child("name").text(), node.child("description").text_or(""))


def read_ssh_key(node: Node) -> SSHKey:
    names = ("id", "name", "public_key")
    return SSHKey(*(node.child(name).text() for name in names))


def read_file_system(node: Node) -> FileSystem:
    return FileSystem(
        id=node.child("id").text(),
        name=node.child("name").text(),
        mount_point=node.child("mount_point").text(),
        region=node.child("region").child("name").text(),
        is_in_use=node.child("is_in_use").is_true(),
    )


def read_image(node: Node) -> Image:
    return Image(
        id=node.child("id").text(),
        name=node.child("name").text_or(""),
        family=node.child("family").text(),
        version=node.child("version").text_or(""),
        architecture=node.child("architecture").text(),
        region=node.child("region").child("name").text(),
    )


def _each(node: Node, key: str) -> Iterator[Node]:
    return node.child(key).each()


def texts(node: Node, key: str) -> tuple[str, ...]:
    """The items of an array of texts."""
    return tuple(item.text() for item in _each(node, key))


# Lambda's record of an instance -> `autoscaler.domain.Instance`, as far as it can be read.

UNREADABLE = "?"
_said: set[str] = set()


def read_instance(node: Node) -> Instance:
    """Raises ProtocolError only where there is no id."""
    try:
        return _read_whole(node)
    except ProtocolError as error:
        instance = _read_in_part(node)
        _say_unreadable(instance.id, str(error))
        return instance


def _say_unreadable(instance_id: str, problem: str) -> None:
    """Once per instance and process: the list is read every few seconds."""
    if instance_id not in _said:
        _said.add(instance_id)
        logger.warning("instance %.40s is read in part: %s", instance_id, problem)


def _read_in_part(node: Node) -> Instance:
    def text(*path: str) -> str:
        found = node
        try:
            for key in path:
                found = found.child(key)
        except ProtocolError:
            return ""
        return found.text_or("")

    def tags() -> Iterator[tuple[str, str]]:
        with suppress(ProtocolError):
            for tag in node.child("tags").each():
                with suppress(ProtocolError):
                    yield tag.child("key").text(), tag.child("value").text_or("")

    type_name = text("instance_type", "name") or UNREADABLE
    return Instance(
        id=node.child("id").text(),
        status=read_status(node.child("status")) if text("status") else Status.UNKNOWN,
        region=text("region", "name") or UNREADABLE,
        instance_type=InstanceType(type_name, "", "", None, 0, 0, 0, 0),
        name=text("name"),
        ip=text("ip") or None,
        private_ip=text("private_ip") or None,
        tags=dict(tags()),
        is_partial=True,
    )


def _read_whole(node: Node) -> Instance:
    tags = {
        tag.child("key").text(): tag.child("value").text_or("") for tag in node.child("tags").each()
    }
    return Instance(
        id=node.child("id").text(),
        status=read_status(node.child("status")),
        region=node.child("region").child("name").text(),
        instance_type=read_instance_type(node.child("instance_type")),
        name=node.child("name").text_or(""),
        ip=node.child("ip").text_or_none(),
        private_ip=node.child("private_ip").text_or_none(),
        hostname=node.child("hostname").text_or_none(),
        ssh_key_names=texts(node, "ssh_key_names"),
        file_system_names=texts(node, "file_system_names"),
        tags=tags,
    )
