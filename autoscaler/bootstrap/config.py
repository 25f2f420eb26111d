"""The cluster YAML's own part: the provider section and the node types' `node_config`.

    provider:
      type: external
      module: autoscaler.provider.LambdaNodeProvider
      regions: [us-east-1, us-west-1]       # in order of preference; the cluster lives in one
      max_price_cents_per_hour: 2000        # optional: cap on what runs, the head included
      max_total_cents: 20000                # optional: cap on the whole run, up to `ray down`
      ssh_key_name: mine                    # optional: a key that the account has already; goes
                                            # with auth.ssh_private_key. Else one is registered.
      filesystems: [datasets]               # optional: mounted on every node

    available_node_types:
      gpu:
        node_config:
          instance_types: [gpu_1x_h100_sxm5, gpu_1x_a100]   # in order of preference
          regions: [us-east-1]              # optional: only there
          image: lambda-stack-22-04         # optional: an image family
          filesystems: [checkpoints]        # optional: in addition to the provider's
        resources: {CPU: 26, GPU: 1}        # optional: what every candidate has, by default

Ray hashes `node_config` to decide whether it replaces the head, so nothing that changes by
itself may be in it. What `ray up` finds out is kept in the provider section, in fields
that start with an underscore, as Ray's own do.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from autoscaler.domain import architecture_of
from autoscaler.errors import ConfigError
from autoscaler.lambda_cloud.tags import check_cluster_name
from autoscaler.lambda_cloud.wire import MAX_TAG_VALUE_CHARS
from autoscaler.money.budget import Caps
from autoscaler.money.spend_sync import Row

Section: TypeAlias = Mapping[str, Any]
"""A part of the YAML, as parsed."""

RAYS_PROVIDER_FIELDS = frozenset(
    {
        "type",
        "module",
        "use_internal_ips",
        "use_external_head_ip",
        "disable_node_updaters",
        "disable_launch_config_check",
        "foreground_node_launch",
        "worker_liveness_check",
    }
)
_PROVIDER_FIELDS = (
    "regions",
    "max_price_cents_per_hour",
    "max_total_cents",
    "ssh_key_name",
    "filesystems",
)
_NODE_FIELDS = ("instance_types", "regions", "image", "filesystems")

ON_HEAD = "_on_head"
HEAD_TYPE = "_head_node_type"
NODE_TYPES = "_node_types"
PUBLIC_KEY = "_ssh_public_key"
FORMER_CHARGES = "_former_charges"


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One node type's candidates. `regions` is empty where any of the provider's will do."""

    instance_types: tuple[str, ...]
    regions: tuple[str, ...] = ()
    image: str | None = None
    filesystems: tuple[str, ...] = ()

    @property
    def architecture(self) -> str:
        return architecture_of(self.instance_types[0])


@dataclass(frozen=True, slots=True)
class NodeType:
    """A node type with the resources that Ray schedules; empty where the YAML gives none."""

    name: str
    config: NodeConfig
    resources: Mapping[str, int] = field(default_factory=dict[str, int], hash=False)


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """The provider section. The fields below `filesystems` are set by `bootstrap`."""

    regions: tuple[str, ...]
    caps: Caps
    ssh_key_name: str | None = None
    filesystems: tuple[str, ...] = ()
    on_head: bool = False
    head_type: str | None = None
    ssh_public_key: str | None = None
    node_types: tuple[NodeType, ...] = ()
    former_charges: tuple[Row, ...] = field(default=(), hash=False)
    """What the run had cost before this head (`spend_sync`)."""

    def node_type(self, name: str | None) -> NodeType | None:
        return next((found for found in self.node_types if found.name == name), None)

    def regions_for(self, node: NodeConfig) -> tuple[str, ...]:
        """Where a node may be, in the provider's order."""
        return tuple(r for r in self.regions if not node.regions or r in node.regions)


def parse_provider(section: Section) -> ProviderConfig:
    """Raises ConfigError, naming the field."""
    for name in section:
        known = name in _PROVIDER_FIELDS or name in RAYS_PROVIDER_FIELDS or name.startswith("_")
        if not known:
            raise ConfigError(
                f"provider.{name}: no such field; there are {', '.join(_PROVIDER_FIELDS)}"
            )
    regions = _names(section, "regions", "provider")
    if not regions:
        raise ConfigError("provider.regions: name at least one region, such as [us-east-1]")
    try:
        caps = Caps(section.get("max_price_cents_per_hour"), section.get("max_total_cents"))
    except ValueError as error:
        raise ConfigError(f"provider.{error}") from None
    node_types = cast(Section, section.get(NODE_TYPES, {}))
    return ProviderConfig(
        regions=regions,
        caps=caps,
        ssh_key_name=_name(section, "ssh_key_name", "provider"),
        filesystems=_names(section, "filesystems", "provider"),
        on_head=bool(section.get(ON_HEAD)),
        head_type=section.get(HEAD_TYPE),
        ssh_public_key=section.get(PUBLIC_KEY),
        node_types=tuple(parse_node_type(name, node) for name, node in node_types.items()),
        former_charges=tuple(section.get(FORMER_CHARGES, ())),
    )


def parse_node_type(name: str, section: Section) -> NodeType:
    """Raises ConfigError, naming the field."""
    where = f"available_node_types.{name}"
    if len(name) > MAX_TAG_VALUE_CHARS:
        raise ConfigError(
            f"{where}: the name has {len(name)} characters, Lambda's tags hold "
            f"{MAX_TAG_VALUE_CHARS}"
        )
    config = parse_node_config(section.get("node_config") or {}, where)
    return NodeType(name, config, section.get("resources") or {})


def parse_node_config(section: Section, where: str) -> NodeConfig:
    where = f"{where}.node_config"
    for name in section:
        if name not in _NODE_FIELDS:
            raise ConfigError(f"{where}.{name}: no such field; there are {', '.join(_NODE_FIELDS)}")
    types = _names(section, "instance_types", where)
    if not types:
        raise ConfigError(
            f"{where}.instance_types: name at least one instance type, such as [gpu_1x_a10]"
        )
    by_architecture = {architecture_of(name): name for name in reversed(types)}
    if len(by_architecture) > 1:
        mixed = ", ".join(f"{name} is {arch}" for arch, name in sorted(by_architecture.items()))
        raise ConfigError(
            f"{where}.instance_types: one node type has one architecture, but {mixed}"
        )
    return NodeConfig(
        instance_types=types,
        regions=_names(section, "regions", where),
        image=_name(section, "image", where),
        filesystems=_names(section, "filesystems", where),
    )


def parse_cluster(config: Section) -> ProviderConfig:
    """The complete YAML, as Ray has prepared it. Raises ConfigError, naming the field."""
    check_cluster_name(str(config["cluster_name"]))
    provider = parse_provider(config["provider"])
    for name, section in cast(Section, config["available_node_types"]).items():
        node_type = parse_node_type(name, section)
        if not provider.regions_for(node_type.config):
            raise ConfigError(
                f"available_node_types.{name}.node_config.regions: none of them is in "
                f"provider.regions ({', '.join(provider.regions)})"
            )
    return provider


def _names(section: Section, field_name: str, where: str) -> tuple[str, ...]:
    value = section.get(field_name)
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where}.{field_name}: must be a list of names, not {value!r}")
    names = cast(list[object], value)
    for name in names:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{where}.{field_name}: {name!r} is not a name")
    return tuple(dict.fromkeys(cast(list[str], names)))


def _name(section: Section, field_name: str, where: str) -> str | None:
    value = section.get(field_name)
    if value is None or (isinstance(value, str) and value):
        return value
    raise ConfigError(f"{where}.{field_name}: {value!r} is not a name")
