"""Lambda Cloud's API, typed: every method returns domain objects, and no dict leaves it.

The methods are Lambda's endpoints of API 1.10.0. All of them wait for their turn in the
account's rate, have timeouts, and raise from `autoscaler.errors`. Those that change nothing,
or the same when sent twice, are retried; `launch` never is.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from autoscaler.domain import (
    FileSystem,
    Image,
    Instance,
    Lane,
    LaunchRequest,
    Region,
    SSHKey,
    TypeOffer,
)
from autoscaler.errors import ConfigError, ProtocolError
from autoscaler.lambda_cloud.launch_request import check_launch, write_launch
from autoscaler.lambda_cloud.transport import Transport
from autoscaler.lambda_cloud.wire import (
    Json,
    Node,
    read_file_system,
    read_image,
    read_instance,
    read_region,
    read_ssh_key,
    read_type_offer,
)

T = TypeVar("T")

MAX_PAGES = 1000
"""A list that has more is taken for a loop of the server's."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class LambdaClient:
    """Thread-safe."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    # Instances

    def list_instances(self) -> tuple[Instance, ...]:
        """All instances that the key can see, whole or not at all; one per id."""
        found = self._list("/instances", read_instance)
        return tuple({instance.id: instance for instance in found}.values())

    def get_instance(self, instance_id: str) -> Instance:
        """Raises NotFoundError once Lambda has forgotten it (some time after its end)."""
        answer = self._get(f"/instances/{_id(instance_id)}")
        return read_instance(answer.child("data"))

    def wait_for_launch_slot(self, deadline_s: float | None = None) -> None:
        """Blocks until the account may launch; UnavailableError if not before `deadline_s`."""
        self._transport.wait_for_slot(Lane.LAUNCH, deadline_s)

    def launch(self, request: LaunchRequest) -> str:
        """Sends one launch, once, at once (call `wait_for_launch_slot` before); returns the id.

        Raises ConfigError before sending for what Lambda would refuse. Only an error whose
        `not_executed` is True proves that no machine was made.
        """
        check_launch(request)
        answer = self._transport.send_once(
            "POST", "/instance-operations/launch", body=write_launch(request), lane=Lane.LAUNCH
        )
        ids = [item.text() for item in answer.child("data").child("instance_ids").each()]
        if len(ids) != 1:
            raise ProtocolError(f"a launch of one machine answered with {len(ids)} ids")
        return ids[0]

    def terminate(self, instance_ids: Sequence[str]) -> tuple[Instance, ...]:
        """The instances as they are now. NotFoundError if any is unknown: perhaps none ended."""
        if not instance_ids:
            return ()
        ids: list[Json] = [_id(instance_id) for instance_id in instance_ids]
        answer = self._transport.send(
            "POST",
            "/instance-operations/terminate",
            body={"instance_ids": ids},
            lane=Lane.TERMINATE,
            repeatable=True,
        )
        ended = answer.child("data").child("terminated_instances")
        return tuple(read_instance(node) for node in ended.each())

    # What there is to launch

    def list_instance_types(self) -> tuple[TypeOffer, ...]:
        """All types, those without capacity included."""
        answer = self._get("/instance-types")
        return tuple(read_type_offer(node) for _, node in answer.child("data").items())

    def list_regions(self) -> tuple[Region, ...]:
        return self._list("/regions", read_region)

    def list_images(self) -> tuple[Image, ...]:
        return self._list("/images", read_image)

    def list_file_systems(self) -> tuple[FileSystem, ...]:
        return self._list("/file-systems", read_file_system)

    # SSH keys

    def list_ssh_keys(self) -> tuple[SSHKey, ...]:
        return self._list("/ssh-keys", read_ssh_key)

    def add_ssh_key(self, name: str, public_key: str) -> SSHKey:
        """Not retried: after an unclear answer, list the keys. ConfigError if the name is taken."""
        answer = self._transport.send(
            "POST", "/ssh-keys", body={"name": name, "public_key": public_key}, repeatable=False
        )
        return read_ssh_key(answer.child("data"))

    # The two shapes of read

    def _get(self, path: str, params: Mapping[str, str] | None = None) -> Node:
        return self._transport.send("GET", path, params=params, repeatable=True)

    def _list(self, path: str, read: Callable[[Node], T]) -> tuple[T, ...]:
        """Follows `page_token`, which the document has for some lists, wherever it appears."""
        found: list[T] = []
        seen: set[str] = set()
        token: str | None = None
        while True:
            answer = self._get(path, {"page_token": token} if token else None)
            data = answer.child("data")
            if not data.is_present():
                raise ProtocolError(f"GET {path}: the answer has no data")
            found.extend(read(node) for node in data.each())
            token = answer.child("page_token").text_or_none()
            if token is None:
                return tuple(found)
            if token in seen or len(seen) == MAX_PAGES:
                raise ProtocolError(f"GET {path}: the pages of the list do not end")
            seen.add(token)


def _id(text: str) -> str:
    """An id is put into a path: nothing else than an id may be."""
    if not _ID.fullmatch(text):
        raise ConfigError(f"id: {text!r} is not an id of Lambda's")
    return text
