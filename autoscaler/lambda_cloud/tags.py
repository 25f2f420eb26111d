"""Ray's node tags <-> Lambda's tags, which can be given at launch only.

What never changes goes out with the launch; what Ray changes during a node's life lives in
`state.TagStore`. An instance is known as the cluster's by its tags, or, should Lambda drop
them, by its name, which also ends in the launch's nonce. One that belongs to the cluster but
lacks a tag that Ray needs is quarantined: Ray's autoscaler stops for good over a node without a
node type, and forgets one without a kind.
"""

import hashlib
import re
import secrets
from collections.abc import Mapping

from autoscaler.domain import Instance
from autoscaler.errors import ConfigError
from autoscaler.lambda_cloud.wire import MAX_TAG_VALUE_CHARS, check_tags

# Ray's own names, see ray/autoscaler/tags.py.
NODE_KIND = "ray-node-type"
USER_NODE_TYPE = "ray-user-node-type"
NODE_NAME = "ray-node-name"
NODE_STATUS = "ray-node-status"
LAUNCH_CONFIG = "ray-launch-config"
LAUNCH_REQUEST = "ray-launch-request"
RUNTIME_CONFIG = "ray-runtime-config"
FILE_MOUNTS = "ray-file-mounts-contents"
CLUSTER = "ray-cluster-name"
KIND_HEAD = "head"
KIND_WORKER = "worker"
STATUS_UNINITIALIZED = "uninitialized"
STATUS_UP_TO_DATE = "up-to-date"
STATUS_UPDATE_FAILED = "update-failed"

NONCE = "raylambda-nonce"
CREATED = "raylambda-created"
"""Epoch second of the launch: Lambda shows no creation time."""

CHECKED = "raylambda-checked"
"""Local tag of a node that has passed its health check: it is not checked again."""

MUTABLE = frozenset({NODE_STATUS, RUNTIME_CONFIG, FILE_MOUNTS})
REQUIRED = (NODE_KIND, USER_NODE_TYPE, CLUSTER, NONCE)
RESERVED_PREFIX = "lambda-ai-"
"""Keys that Lambda keeps for itself."""

MAX_CLUSTER_CHARS = MAX_TAG_VALUE_CHARS - len("ray--worker")
"""Ray makes a tag of a cluster's name: `ray-<cluster>-worker`."""
_SLUG_CHARS = 24
_NAME = re.compile(r"ray-(?P<slug>[a-z0-9-]+)-(?P<kind>[hw])-(?P<nonce>[0-9a-f]{16})")


def new_nonce() -> str:
    return secrets.token_hex(8)


def launch_tags(
    ray_tags: Mapping[str, str], cluster: str, nonce: str, created_s: float
) -> dict[str, str]:
    """What goes out with a launch. Raises ConfigError, naming the tag, for what Lambda refuses."""
    for required in (NODE_KIND, USER_NODE_TYPE):
        if not ray_tags.get(required):
            raise ConfigError(f"tag {required!r}: Ray gave none, the node could not be managed")
    fixed = {key: value for key, value in ray_tags.items() if key not in MUTABLE}
    tags = fixed | {
        CLUSTER: cluster,
        NONCE: nonce,
        CREATED: str(int(created_s)),
    }
    for key in tags:
        if key.startswith(RESERVED_PREFIX):
            raise ConfigError(f"tag {key!r}: the prefix {RESERVED_PREFIX!r} is Lambda's own")
    check_tags(tags)
    return tags


def mutable_tags(ray_tags: Mapping[str, str]) -> dict[str, str]:
    """The part that goes to `state.TagStore`."""
    return {key: value for key, value in ray_tags.items() if key in MUTABLE}


def node_tags(instance: Instance, local: Mapping[str, str]) -> dict[str, str] | None:
    """Ray's view of an instance; None if it must be quarantined.

    `local` are its tags in `state.TagStore`; where Lambda has lost a tag of the launch, the
    machine that launched it still knows. A node without a status is uninitialized: Ray then
    sets it up, which is safe to do twice.
    """
    shown = {key: value for key, value in instance.tags.items() if value}
    tags = {NODE_STATUS: STATUS_UNINITIALIZED} | dict(local) | shown | mutable_tags(local)
    if any(not tags.get(key) for key in REQUIRED):
        return None
    return tags


def instance_name(cluster: str, kind: str, nonce: str) -> str:
    """At most 54 characters, whatever the cluster is called; also valid as a hostname."""
    return f"ray-{slug(cluster)}-{'h' if kind == KIND_HEAD else 'w'}-{nonce}"


def nonce_of(instance: Instance) -> str | None:
    """The nonce of the launch that made it, from its tag or else its name."""
    if nonce := instance.tags.get(NONCE):
        return nonce
    match = _NAME.fullmatch(instance.name)
    return match["nonce"] if match else None


def belongs_to(instance: Instance, cluster: str) -> bool:
    if instance.tags.get(CLUSTER):
        return instance.tags[CLUSTER] == cluster
    match = _NAME.fullmatch(instance.name)
    return match is not None and match["slug"] == slug(cluster)


def kind_of(instance: Instance) -> str:
    """Head or worker, from the tag or else the name; a machine that tells neither is a worker."""
    if kind := instance.tags.get(NODE_KIND):
        return kind
    match = _NAME.fullmatch(instance.name)
    return KIND_HEAD if match and match["kind"] == "h" else KIND_WORKER


def created_s(instance: Instance) -> float | None:
    text = instance.tags.get(CREATED, "")
    return float(text) if text.isascii() and text.isdigit() else None


def check_cluster_name(cluster: str) -> None:
    """Raises ConfigError for a cluster name that no tag can hold."""
    if not 1 <= len(cluster) <= MAX_CLUSTER_CHARS:
        raise ConfigError(
            f"cluster_name: has {len(cluster)} characters, Lambda's tags hold 1 to "
            f"{MAX_CLUSTER_CHARS}"
        )


def slug(cluster: str) -> str:
    """The cluster's name where a name must be short and plain; a hash keeps it unique."""
    plain = re.sub(r"[^a-z0-9]+", "-", cluster.lower()).strip("-")[:_SLUG_CHARS].strip("-")
    if plain == cluster:
        return plain
    digest = hashlib.sha256(cluster.encode()).hexdigest()[:6]
    return f"{plain or 'cluster'}-{digest}"
