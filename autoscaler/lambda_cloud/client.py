"""Lambda Cloud's API, typed: every method returns domain objects, and no dict leaves it.

The methods are Lambda's endpoints of API 1.10.0. All of them wait for their turn in the
account's rate, have timeouts, and raise from `autoscaler.errors`. Those that change nothing,
or the same when sent twice, are retried; `launch` never is.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
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
from autoscaler.lambda_cloud.transport import Transport
from autoscaler.lambda_cloud.wire import (
    Json,
    Launched,
    OneRecord,
    Page,
    check_launch,
    read,
    read_instance,
    write_launch,
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
        """All instances that the key can see, one per id; never a part of the list.

        Of two records of one machine the living one counts: a machine that is taken for gone is
        replaced, and its work with it.
        """
        found: dict[str, Instance] = {}
        for item, where in self._items("/instances"):
            instance = read_instance(item, where)
            known = found.get(instance.id)
            if known is None or known.status.is_terminating_or_gone:
                found[instance.id] = instance
        return tuple(found.values())

    def get_instance(self, instance_id: str) -> Instance:
        """Raises NotFoundError once Lambda has forgotten it (some time after its end)."""
        return read_instance(*self._data("GET", f"/instances/{_id(instance_id)}"))

    def wait_for_launch_slot(self, deadline_s: float | None = None) -> None:
        """Blocks until the account may launch; UnavailableError if not before `deadline_s`."""
        self._transport.wait_for_slot(Lane.LAUNCH, deadline_s)

    def launch(self, request: LaunchRequest) -> str:
        """Sends one launch, once, at once (call `wait_for_launch_slot` before); returns the id.

        Raises ConfigError before sending for what Lambda would refuse. Only an error whose
        `not_executed` is True proves that no machine was made.
        """
        check_launch(request)
        path = "/instance-operations/launch"
        answer = self._transport.send_once(
            "POST", path, body=write_launch(request), lane=Lane.LAUNCH
        )
        ids = read(Launched, answer, f"POST {path}").instance_ids
        if len(ids) != 1:
            raise ProtocolError(f"a launch of one machine answered with {len(ids)} ids")
        return ids[0]

    def terminate(self, instance_ids: Sequence[str]) -> tuple[Instance, ...]:
        """The instances as they are now. NotFoundError if any is unknown: perhaps none ended."""
        if not instance_ids:
            return ()
        ids: list[Json] = [_id(instance_id) for instance_id in instance_ids]
        data, where = self._data(
            "POST",
            "/instance-operations/terminate",
            body={"instance_ids": ids},
            lane=Lane.TERMINATE,
        )
        ended = read(dict[str, tuple[object, ...]], data, where).get("terminated_instances", ())
        where = f"{where}.terminated_instances"
        return tuple(read_instance(item, f"{where}[{i}]") for i, item in enumerate(ended))

    # What there is to launch

    def list_instance_types(self) -> tuple[TypeOffer, ...]:
        """All types, those without capacity included."""
        types = read(dict[str, object], *self._data("GET", "/instance-types"))
        where = "GET /instance-types.data"
        return tuple(read(TypeOffer, item, f"{where}.{name}") for name, item in types.items())

    def list_regions(self) -> tuple[Region, ...]:
        return self._list(Region, "/regions")

    def list_images(self) -> tuple[Image, ...]:
        return self._list(Image, "/images")

    def list_file_systems(self) -> tuple[FileSystem, ...]:
        return self._list(FileSystem, "/file-systems")

    # SSH keys

    def list_ssh_keys(self) -> tuple[SSHKey, ...]:
        return self._list(SSHKey, "/ssh-keys")

    def add_ssh_key(self, name: str, public_key: str) -> SSHKey:
        """Not retried: after an unclear answer, list the keys. ConfigError if the name is taken."""
        body = {"name": name, "public_key": public_key}
        return read(SSHKey, *self._data("POST", "/ssh-keys", body=body, repeatable=False))

    # Answers, and where in them a record lies

    def _data(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Json] | None = None,
        lane: Lane = Lane.GENERAL,
        repeatable: bool = True,
    ) -> tuple[object, str]:
        answer = self._transport.send(method, path, body=body, lane=lane, repeatable=repeatable)
        where = f"{method} {path}"
        return read(OneRecord, answer, where).data, f"{where}.data"

    def _list(self, kind: type[T], path: str) -> tuple[T, ...]:
        return tuple(read(kind, item, where) for item, where in self._items(path))

    def _items(self, path: str) -> Iterator[tuple[object, str]]:
        """Follows `page_token`, which the document has for some lists, wherever it appears."""
        seen: set[str] = set()
        token: str | None = None
        while True:
            params = {"page_token": token} if token else None
            answer = self._transport.send("GET", path, params=params, repeatable=True)
            page = read(Page, answer, f"GET {path}")
            for index, item in enumerate(page.data):
                yield item, f"GET {path}.data[{index}]"
            token = page.page_token
            if token is None:
                return
            if token in seen or len(seen) == MAX_PAGES:
                raise ProtocolError(f"GET {path}: the pages of the list do not end")
            seen.add(token)


def _id(text: str) -> str:
    """An id is put into a path: nothing else than an id may be."""
    if not _ID.fullmatch(text):
        raise ConfigError(f"id: {text!r} is not an id of Lambda's")
    return text
