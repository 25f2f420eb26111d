"""Regions for a whole cluster: where the head and the most worker types can be comes first."""

from autoscaler.bootstrap.config import NodeConfig, NodeType, ProviderConfig
from autoscaler.bootstrap.preflight import head_regions
from autoscaler.domain import Offering
from autoscaler.instances.unavailable_offerings import Reason, after_failure
from autoscaler.lambda_cloud.catalog import Catalog
from autoscaler.money.budget import Caps

A10, A100, H100, CPU = "gpu_1x_a10", "gpu_1x_a100", "gpu_1x_h100_sxm5", "cpu_4x_general"
EAST, WEST, MIDDLE = "us-east-1", "us-west-1", "me-west-1"
HEAD = NodeConfig((CPU, A10))


def ranked(advertised, *workers, unavailable=()):
    types = tuple(NodeType(name, NodeConfig((name,))) for name in workers)
    config = ProviderConfig((EAST, MIDDLE, WEST), Caps(), node_types=types)
    catalog = Catalog({}, frozenset(Offering(*pair) for pair in advertised))
    return head_regions(config, HEAD, config.regions, catalog, unavailable)


def test_regions_where_head_and_workers_can_be_come_first():
    advertised = [(CPU, EAST), (CPU, WEST), (H100, WEST), (H100, MIDDLE), (A100, MIDDLE)]
    assert ranked(advertised, H100, A100) == [WEST, EAST, MIDDLE]


def test_equal_regions_keep_their_order():
    assert ranked([]) == [EAST, MIDDLE, WEST]


def test_an_unavailable_offering_does_not_count_though_it_is_advertised():
    failed = after_failure(None, Offering(CPU, EAST), Reason.STOCKOUT, 0.0, advertised=True)
    assert ranked([(CPU, EAST), (A10, WEST)], unavailable=[failed]) == [WEST, EAST, MIDDLE]
