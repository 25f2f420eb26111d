"""A launch as Lambda takes it: what it would refuse is refused here, before anything is sent."""

import re
from collections.abc import Mapping

from autoscaler.domain import LaunchRequest
from autoscaler.errors import ConfigError
from autoscaler.lambda_cloud.wire import Json

MAX_NAME_CHARS = 64
MAX_USER_DATA_BYTES = 1_000_000
MAX_TAG_KEY_CHARS = 55
MAX_TAG_VALUE_CHARS = 128
_TAG_KEY = re.compile(r"[a-z][a-z0-9:-]+")
_HOSTNAME = re.compile(r"[a-z0-9][0-9a-z-]{0,62}")


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
