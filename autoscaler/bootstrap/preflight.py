"""Does Lambda have what the YAML names? Asked once by `ray up`, before anything is launched."""

from collections.abc import Iterable

from autoscaler.bootstrap.config import NodeType, ProviderConfig
from autoscaler.domain import InstanceType
from autoscaler.errors import ConfigError
from autoscaler.lambda_cloud.catalog import Catalog
from autoscaler.lambda_cloud.client import LambdaClient
from autoscaler.sizing import check_resources


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
    """Raises ConfigError for an instance type that nobody knows."""
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
