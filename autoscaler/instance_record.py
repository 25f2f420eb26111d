"""Lambda's record of an instance -> `autoscaler.domain.Instance`, as far as it can be read.

An instance is never dropped from a list, since a dropped one looks like a dead node; and what
has an id can be ended. What is missing of one is said once.
"""

import logging
from collections.abc import Iterator
from contextlib import suppress

from autoscaler.domain import Instance, InstanceType, Status
from autoscaler.errors import ProtocolError
from autoscaler.lambda_cloud.wire import Node, read_instance_type, read_status, texts

UNREADABLE = "?"
_said: set[str] = set()

logger = logging.getLogger(__name__)


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
