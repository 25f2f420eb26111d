"""Where the head goes, and under which SSH key: found out by `ray up`, told to the head.

Head and workers share one region, since no private network joins two. The head is the
cheapest part and sold nearly everywhere, so its region is chosen by what its workers need.
"""

from collections.abc import Sequence

from autoscaler.bootstrap.config import NodeConfig, ProviderConfig
from autoscaler.bootstrap.ssh_keys import check_registered, ensure_registered
from autoscaler.domain import Place
from autoscaler.instances.placement import Closure, rank_regions
from autoscaler.lambda_cloud.catalog import Catalog
from autoscaler.lambda_cloud.client import LambdaClient


def head_regions(
    config: ProviderConfig,
    head: NodeConfig,
    regions: Sequence[str],
    catalog: Catalog,
    closures: Sequence[Closure],
) -> list[str]:
    """The regions to try for the head, best first: where it and most of its workers can be.

    What is advertised is a hint that ages within minutes: regions that show nothing now come
    last, and stay.
    """

    def is_open(place: Place) -> bool:
        return catalog.is_advertised(place) and not any(c.covers(place) for c in closures)

    groups = [t.config for t in config.node_types if t.name != config.head_type]

    def score(region: str) -> tuple[bool, int]:
        here = [g.instance_types for g in groups if not g.regions or region in g.regions]
        (ranked,) = rank_regions(head.instance_types, here, [region], is_open)
        return ranked.head_advertised, ranked.worker_groups_advertised

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
