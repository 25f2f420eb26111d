"""Request bodies: their JSON schemas from Lambda's OpenAPI document, and their validation.

Messages never contain a value: user data and keys pass through here.
"""

import json
from typing import Any

from jsonschema import Draft202012Validator

from autoscaler.simulator.cloud.config import CloudConfig
from autoscaler.simulator.cloud.errors import ApiError, invalid_parameters
from autoscaler.simulator.cloud.instances import LaunchSpec

USER_DATA_MAX_BYTES = 1_000_000

_STRINGS = {"type": "array", "items": {"type": "string"}}
_NAME = {"type": "string", "maxLength": 64}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


_MOUNT = _object(
    ("mount_point", "file_system_id"),
    mount_point={
        "type": "string",
        "maxLength": 256,
        "pattern": "^(/home|/lambda/nfs|/data)[//a-zA-Z0-9-]*$",
    },
    file_system_id={"type": "string"},
)
_TAG = _object(
    ("key", "value"),
    key={"type": "string", "maxLength": 55, "pattern": "^[a-z][a-z0-9-:]+$"},
    value={"type": "string", "maxLength": 128},
)
_IMAGE = {
    "anyOf": [
        _object(("id",), id={"type": "string"}),
        _object(("family",), family={"type": "string"}),
    ]
}
_RULE = _object(
    ("protocol", "source_network", "description"),
    protocol={"enum": ["tcp", "udp", "icmp", "all"]},
    port_range={
        "type": "array",
        "items": {"type": "integer", "minimum": 1, "maximum": 65535},
        "minItems": 2,
        "maxItems": 2,
    },
    source_network={"type": "string"},
    description={"type": "string", "maxLength": 128},
)
_HOSTNAME = {
    "type": "string",
    "minLength": 1,
    "maxLength": 63,
    "pattern": "^[a-z0-9][0-9a-z-]{0,62}$",
}

SCHEMAS: dict[str, dict[str, Any]] = {
    "launch": _object(
        ("region_name", "instance_type_name", "ssh_key_names"),
        region_name={"type": "string"},
        instance_type_name={"type": "string"},
        ssh_key_names={**_STRINGS, "minItems": 1, "maxItems": 1},
        file_system_names=_STRINGS,
        file_system_mounts={"type": "array", "items": _MOUNT},
        hostname=_HOSTNAME,
        name=_NAME,
        image=_IMAGE,
        user_data={"type": "string"},
        tags={"type": "array", "items": _TAG},
        firewall_rulesets={"type": "array", "items": _object(("id",), id={"type": "string"})},
        quantity={"type": "integer"},
    ),
    "terminate": _object(("instance_ids",), instance_ids=_STRINGS),
    "restart": _object(("instance_ids",), instance_ids=_STRINGS),
    "rename": _object(name=_NAME),
    "add_ssh_key": _object(
        ("name",),
        name={**_NAME, "minLength": 1},
        public_key={"type": "string", "minLength": 1, "maxLength": 4096},
    ),
    "create_file_system": _object(
        ("name", "region"),
        name={
            "type": "string",
            "minLength": 1,
            "maxLength": 60,
            "pattern": "^[a-zA-Z]+[0-9a-zA-Z-]*$",
        },
        region={"type": "string"},
    ),
    "create_firewall_ruleset": _object(
        ("name", "region", "rules"),
        name=_NAME,
        region={"type": "string"},
        rules={"type": "array", "items": _RULE},
    ),
}
"""By endpoint. `quantity` is in the document's example, though not in its schema."""

_VALIDATORS = {name: Draft202012Validator(schema) for name, schema in SCHEMAS.items()}


def parse_body(endpoint: str, raw: bytes, reject_unknown_fields: bool) -> dict[str, Any]:
    """Decodes and validates the body of a call. ApiError 400 names the field that is wrong."""
    try:
        body = json.loads(raw)
    except ValueError:
        raise invalid_parameters("The request body is not JSON.") from None
    error = next(_VALIDATORS[endpoint].iter_errors(body), None)
    if error is not None:
        where = ".".join(str(p) for p in error.absolute_path) or "body"
        rule = "" if error.validator == "anyOf" else f" {error.validator_value}"
        raise invalid_parameters(f"{where}: does not fit {error.validator}{rule}")
    unknown = sorted(set(body) - set(SCHEMAS[endpoint]["properties"]))
    if unknown and reject_unknown_fields:
        raise invalid_parameters(f"{unknown[0][:64]}: unknown field")
    return body


def launch_spec(body: dict[str, Any], config: CloudConfig) -> LaunchSpec:
    """The launch of a valid body. ApiError 400 for what its schema cannot say."""
    if body.get("quantity", 1) != 1:
        raise invalid_parameters("Requested too many instances.")
    user_data = body.get("user_data", "")
    if len(user_data.encode()) > USER_DATA_MAX_BYTES:
        raise invalid_parameters("user_data: larger than 1 MB")
    tags = tuple((t["key"], t["value"]) for t in body.get("tags", ()))
    if refusal := _refused_tags(tags, config):
        raise refusal
    image = body.get("image", {})
    return LaunchSpec(
        instance_type=body["instance_type_name"],
        region=body["region_name"],
        ssh_key_name=body["ssh_key_names"][0],
        name=body.get("name"),
        hostname=body.get("hostname"),
        tags=tags,
        file_system_names=tuple(body.get("file_system_names", ())),
        mounts=tuple(
            (m["mount_point"], m["file_system_id"]) for m in body.get("file_system_mounts", ())
        ),
        image_id=image.get("id"),
        image_family=image.get("family"),
        firewall_ruleset_ids=tuple(r["id"] for r in body.get("firewall_rulesets", ())),
        user_data=user_data,
    )


def _refused_tags(tags: tuple[tuple[str, str], ...], config: CloudConfig) -> ApiError | None:
    if config.max_tags is not None and len(tags) > config.max_tags:
        return invalid_parameters(f"tags: more than {config.max_tags}")
    prefix = config.reserved_tag_prefix
    if prefix and any(key.startswith(prefix) for key, _ in tags):
        return invalid_parameters(f"tags: keys must not start with {prefix}")
    return None
