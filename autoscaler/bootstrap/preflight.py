"""Preflight: whether Lambda and the account have what the YAML names, and where the head can be.

`ray up` asks once, before anything is launched. `check` answers with the regions in which the
whole cluster could be; `head_regions` orders them, and `resolve_ssh_key` finds the key under
which nodes are launched. Region and key are then fixed in the head's own configuration.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from autoscaler.bootstrap.config import NodeConfig, NodeType, ProviderConfig
from autoscaler.bootstrap.ssh_keys import check_registered, ensure_registered
from autoscaler.domain import InstanceType, Offering
from autoscaler.errors import ConfigError
from autoscaler.instances.unavailable_offerings import UnavailableOffering
from autoscaler.lambda_cloud.catalog import Catalog
from autoscaler.lambda_cloud.client import LambdaClient

MEMORY_SHARE = 0.7
"""The part of a machine's memory that Ray schedules; the rest is object store and system."""
GIB = 1024**3
ACCELERATORS = {"v100": "V100", "a10": "A10", "a100": "A100", "h100": "H100", "b200": "B200"}
"""Ray's names of the GPUs, by their part of the names of Lambda's instance types."""


def check(config: ProviderConfig, client: LambdaClient, catalog: Catalog) -> tuple[str, ...]:
    """The provider's regions in which the whole cluster could be.

    Raises ConfigError, naming the field, for what the account or Lambda does not have.
    Costs one request for the regions, and one each for file systems and images if any is named.
    """
    for node_type in config.node_types:
        where = f"available_node_types.{node_type.name}"
        check_resources(where, node_type.resources, candidates(node_type, catalog))
    _check_regions(config, client)
    _check_images(config.node_types, client)
    return _usable_regions(config, client)


def candidates(node_type: NodeType, catalog: Catalog) -> list[InstanceType]:
    """A node type's instance types, in its order. Raises ConfigError for an unknown name."""
    found: list[InstanceType] = []
    for name in node_type.config.instance_types:
        instance_type = catalog.get(name)
        if instance_type is None:
            raise ConfigError(
                f"available_node_types.{node_type.name}.node_config.instance_types: Lambda has "
                f"no type {name!r}; it has {', '.join(sorted(catalog.types))}"
            )
        found.append(instance_type)
    return found


def _usable_regions(config: ProviderConfig, client: LambdaClient) -> tuple[str, ...]:
    """The provider's regions where every file system of the cluster is.

    Raises ConfigError for a file system that is not in the account, or nowhere near the others.
    """
    wanted = list(config.filesystems)
    for node_type in config.node_types:
        wanted += node_type.config.filesystems
    if not wanted:
        return config.regions
    known = {file_system.name: file_system.region for file_system in client.list_file_systems()}
    regions = config.regions
    for name in dict.fromkeys(wanted):
        if name not in known:
            raise ConfigError(f"provider.filesystems: the account has no file system {name!r}")
        regions = tuple(region for region in regions if region == known[name])
        if not regions:
            raise ConfigError(
                f"provider.filesystems: {name!r} is in {known[name]}, where the cluster may not "
                f"be: a node mounts file systems of its own region, of {', '.join(config.regions)}"
            )
    return regions


def _check_regions(config: ProviderConfig, client: LambdaClient) -> None:
    named: dict[str, str] = dict.fromkeys(config.regions, "provider.regions")
    for node_type in config.node_types:
        where = f"available_node_types.{node_type.name}.node_config.regions"
        named |= dict.fromkeys(node_type.config.regions, where)
    known = {region.name for region in client.list_regions()}
    for name, where in named.items():
        if name not in known:
            raise ConfigError(
                f"{where}: Lambda has no region {name!r}; it has {', '.join(sorted(known))}"
            )


def _check_images(node_types: Iterable[NodeType], client: LambdaClient) -> None:
    wanted = [node_type for node_type in node_types if node_type.config.image]
    if not wanted:
        return
    known = {(image.family, image.architecture) for image in client.list_images()}
    for node_type in wanted:
        family, architecture = node_type.config.image, node_type.config.architecture
        if (family, architecture) not in known:
            families = sorted({name for name, built_for in known if built_for == architecture})
            raise ConfigError(
                f"available_node_types.{node_type.name}.node_config.image: Lambda has no image "
                f"family {family!r} for {architecture}; it has {', '.join(families)}"
            )


def head_regions(
    config: ProviderConfig,
    head: NodeConfig,
    regions: Sequence[str],
    catalog: Catalog,
    unavailable: Sequence[UnavailableOffering],
) -> list[str]:
    """The regions to try for the head, best first: there is no private network between regions.

    A region comes first if the head can be there now, and then by how many worker types can;
    ties keep the YAML's order. What is advertised is a hint that ages within minutes: regions
    that show nothing now come last, and stay.
    """

    def can(instance_types: Sequence[str], region: str) -> bool:
        offerings = [Offering(name, region) for name in instance_types]
        return any(
            catalog.is_advertised(offering) and not any(u.covers(offering) for u in unavailable)
            for offering in offerings
        )

    workers = [t.config for t in config.node_types if t.name != config.head_type]

    def score(region: str) -> tuple[bool, int]:
        here = [w.instance_types for w in workers if not w.regions or region in w.regions]
        return can(head.instance_types, region), sum(can(names, region) for names in here)

    allowed = [region for region in config.regions_for(head) if region in regions]
    return sorted(allowed, key=score, reverse=True)


def resolve_ssh_key(config: ProviderConfig, client: LambdaClient) -> str:
    """The name of the account's key that opens the nodes; registers one if none was named."""
    if config.ssh_key_name is not None:
        check_registered(client, config.ssh_key_name, config.ssh_public_key)
        return config.ssh_key_name
    if config.ssh_public_key is None:
        raise ValueError("the provider section was not bootstrapped")
    return ensure_registered(client, config.ssh_public_key)


def resources_of(candidates: Sequence[InstanceType]) -> dict[str, int]:
    """Ray's resources of a node type: the least that any candidate has, memory in bytes.

    GPUs are left out where a candidate has none, the accelerator type where they differ.
    """
    least = {
        "CPU": min(candidate.vcpus for candidate in candidates),
        "memory": int(min(c.memory_gib for c in candidates) * GIB * MEMORY_SHARE),
    }
    if gpus := min(candidate.gpus for candidate in candidates):
        least["GPU"] = gpus
        accelerators = {_accelerator(candidate.name) for candidate in candidates}
        if len(accelerators) == 1 and (name := accelerators.pop()):
            least[f"accelerator_type:{name}"] = 1
    return least


def check_resources(
    where: str, resources: Mapping[str, float], candidates: Sequence[InstanceType]
) -> None:
    """Raises ConfigError where a candidate has less than `resources` promise to Ray."""
    for candidate in candidates:
        has = {
            "CPU": candidate.vcpus,
            "GPU": candidate.gpus,
            "memory": candidate.memory_gib * GIB,
        }
        for name, amount in has.items():
            if resources.get(name, 0) > amount:
                raise ConfigError(
                    f"{where}.resources.{name}: {resources[name]} is more than {candidate.name} "
                    f"has ({amount})"
                )


def _accelerator(instance_type: str) -> str | None:
    match = re.search(r"_\d+x_([a-z]+\d+)", instance_type)
    return ACCELERATORS.get(match[1]) if match else None
