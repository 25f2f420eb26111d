"""The calls of Lambda's API: method and path, name, and what each does to the cloud."""

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from autoscaler.simulator.api.validation import launch_spec
from autoscaler.simulator.cloud import errors
from autoscaler.simulator.cloud.account import FileSystem
from autoscaler.simulator.cloud.cloud import Cloud
from autoscaler.simulator.cloud.instances import Instance, instance_json
from autoscaler.simulator.cloud.launch import mount_points
from autoscaler.simulator.cloud.offers import IMAGES, REGIONS, TYPES, region_json, type_json


@dataclass
class Call:
    """One call. `subject` is what the call log shows; `commit_after_s` delays a launch."""

    id: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    commit_after_s: float = 0.0
    subject: str = ""


Handler = Callable[[Cloud, Call], dict[str, Any]]
"""Returns the body of a 200; ApiError for any other answer."""


def _show(cloud: Cloud, instance: Instance, status: str | None = None) -> dict[str, Any]:
    private_ip = instance.spec.region not in cloud.config.regions_without_private_ip
    mounts = _mounts(cloud, instance)
    return instance_json(instance, status or instance.status, mounts, private_ip)


def _mounts(cloud: Cloud, instance: Instance) -> list[dict[str, str]]:
    points = mount_points(instance.spec, cloud.account)
    return [{"mount_point": point, "file_system_id": fs_id} for fs_id, point in points.items()]


def _list(cloud: Cloud, call: Call) -> dict[str, Any]:
    rows = cloud.listed()
    size = cloud.config.page_size
    if size is None:
        return {"data": [_show(cloud, i, status) for i, status in rows]}
    # The token names the last instance seen, so that pages stay right while the list changes.
    after = _decode_token(call.query["page_token"]) if "page_token" in call.query else 0
    rest = [(i, status) for i, status in rows if i.number > after]
    page = rest[:size]
    token = _encode_token(page[-1][0].number) if len(rest) > size else None
    return {"data": [_show(cloud, i, status) for i, status in page], "page_token": token}


def _encode_token(number: int) -> str:
    return base64.urlsafe_b64encode(f"after:{number}".encode()).decode()


def _decode_token(token: str) -> int:
    try:
        return int(base64.urlsafe_b64decode(token).removeprefix(b"after:"))
    except ValueError:
        raise errors.invalid_parameters("page_token: not a token of this list") from None


def _get(cloud: Cloud, call: Call) -> dict[str, Any]:
    return {"data": _show(cloud, cloud.get(call.id))}


def _rename(cloud: Cloud, call: Call) -> dict[str, Any]:
    instance = cloud.get(call.id)
    instance.name = call.body.get("name", instance.name)
    return {"data": _show(cloud, instance)}


def _launch(cloud: Cloud, call: Call) -> dict[str, Any]:
    spec = launch_spec(call.body, cloud.config)
    call.subject = f"{spec.instance_type} {spec.region}"
    cloud.admit(spec)
    if call.commit_after_s > 0:
        cloud.commit_later(spec, call.commit_after_s)
        return {}
    return {"data": {"instance_ids": [cloud.commit(spec).id]}}


def _terminate(cloud: Cloud, call: Call) -> dict[str, Any]:
    call.subject = " ".join(call.body["instance_ids"])
    ended = cloud.terminate(call.body["instance_ids"])
    return {"data": {"terminated_instances": [_show(cloud, i) for i in ended]}}


def _restart(cloud: Cloud, call: Call) -> dict[str, Any]:
    restarted = cloud.restart(call.body["instance_ids"])
    return {"data": {"restarted_instances": [_show(cloud, i) for i in restarted]}}


def _instance_types(cloud: Cloud, call: Call) -> dict[str, Any]:
    now = cloud.clock.now()

    def shown(type_name: str, region: str) -> bool:
        stockout = cloud.faults.stockout(type_name, region, now)
        hidden = stockout is not None and not stockout.advertised
        return not hidden and cloud.capacity.advertised(type_name, region, now)

    return {
        "data": {
            name: {
                "instance_type": type_json(t),
                "regions_with_capacity_available": [
                    region_json(r) for r in REGIONS if shown(name, r)
                ],
            }
            for name, t in TYPES.items()
        }
    }


def _regions(cloud: Cloud, call: Call) -> dict[str, Any]:
    return {"data": [region_json(r) for r in REGIONS]}


def _images(cloud: Cloud, call: Call) -> dict[str, Any]:
    return {"data": [image.to_json() for image in IMAGES.values()]}


def _ssh_keys(cloud: Cloud, call: Call) -> dict[str, Any]:
    return {"data": [key.to_json() for key in cloud.account.ssh_keys.values()]}


def _add_ssh_key(cloud: Cloud, call: Call) -> dict[str, Any]:
    return {"data": cloud.account.add_ssh_key(call.body["name"], call.body.get("public_key"))}


def _delete_ssh_key(cloud: Cloud, call: Call) -> dict[str, Any]:
    cloud.account.delete_ssh_key(call.id)
    return {"data": {}}


def _show_file_system(cloud: Cloud, fs: FileSystem) -> dict[str, Any]:
    return fs.to_json(cloud.file_system_in_use(fs.name, fs.id))


def _file_systems(cloud: Cloud, call: Call) -> dict[str, Any]:
    found = cloud.account.file_systems.values()
    return {"data": [_show_file_system(cloud, fs) for fs in found]}


def _create_file_system(cloud: Cloud, call: Call) -> dict[str, Any]:
    name, region = call.body["name"], call.body["region"]
    made = cloud.account.create_file_system(name, region, cloud.clock.now())
    return {"data": _show_file_system(cloud, made)}


def _delete_file_system(cloud: Cloud, call: Call) -> dict[str, Any]:
    fs = cloud.account.file_system_by_id(call.id)
    if fs is None:
        raise errors.does_not_exist("Filesystem")
    if cloud.file_system_in_use(fs.name, fs.id):
        raise errors.file_system_in_use(fs.name)
    del cloud.account.file_systems[fs.name]
    return {"data": {"deleted_ids": [fs.id]}}


def _firewall_rulesets(cloud: Cloud, call: Call) -> dict[str, Any]:
    found = cloud.account.firewall_rulesets.values()
    return {"data": [r.to_json(cloud.instances_behind(r.id)) for r in found]}


def _create_firewall_ruleset(cloud: Cloud, call: Call) -> dict[str, Any]:
    made = cloud.account.create_firewall_ruleset(call.body, cloud.clock.now())
    return {"data": made.to_json([])}


def _delete_firewall_ruleset(cloud: Cloud, call: Call) -> dict[str, Any]:
    if call.id not in cloud.account.firewall_rulesets:
        raise errors.does_not_exist("Firewall ruleset")
    if cloud.instances_behind(call.id):
        raise errors.firewall_ruleset_in_use()
    del cloud.account.firewall_rulesets[call.id]
    return {"data": {}}


_ROUTES: tuple[tuple[str, str, str, Handler], ...] = (
    ("GET", "/instances", "list", _list),
    ("GET", "/instances/{id}", "get", _get),
    ("POST", "/instances/{id}", "rename", _rename),
    ("POST", "/instance-operations/launch", "launch", _launch),
    ("POST", "/instance-operations/terminate", "terminate", _terminate),
    ("POST", "/instance-operations/restart", "restart", _restart),
    ("GET", "/instance-types", "instance_types", _instance_types),
    ("GET", "/regions", "regions", _regions),
    ("GET", "/images", "images", _images),
    ("GET", "/ssh-keys", "ssh_keys", _ssh_keys),
    ("POST", "/ssh-keys", "add_ssh_key", _add_ssh_key),
    ("DELETE", "/ssh-keys/{id}", "delete_ssh_key", _delete_ssh_key),
    ("GET", "/file-systems", "file_systems", _file_systems),
    ("POST", "/filesystems", "create_file_system", _create_file_system),
    ("DELETE", "/filesystems/{id}", "delete_file_system", _delete_file_system),
    ("GET", "/firewall-rulesets", "firewall_rulesets", _firewall_rulesets),
    ("POST", "/firewall-rulesets", "create_firewall_ruleset", _create_firewall_ruleset),
    ("DELETE", "/firewall-rulesets/{id}", "delete_firewall_ruleset", _delete_firewall_ruleset),
)
_PATTERNS = [
    (method, re.compile(path.replace("{id}", "(?P<id>[^/]+)")), name, handler)
    for method, path, name, handler in _ROUTES
]


def find(method: str, path: str) -> tuple[str, Handler, str] | None:
    """(name, handler, id in the path) of a call below `/api/v1`; None for an unknown path."""
    for wanted, pattern, name, handler in _PATTERNS:
        if method == wanted and (match := pattern.fullmatch(path)):
            return name, handler, match.groupdict().get("id", "")
    return None


def routes() -> list[tuple[str, str, str]]:
    """(method, path below `/api/v1`, name) of every call."""
    return [(method, path, name) for method, path, name, _ in _ROUTES]
