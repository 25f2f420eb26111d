"""A harvest grows with its cluster, and asks at once for what its training will use."""

import time
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from data.storage import Store
from ray_jobs.activations.harvest_pool import HarvestPool
from ray_jobs.activations.harvester import ShardTask, plan_rows
from ray_jobs.activations.host_model import HostPlan
from tests.hosts import save_tiny_llama

pytestmark = pytest.mark.ray


def test_nodes_are_asked_for_and_those_that_join_are_used(tmp_path: Path) -> None:
    host = str(save_tiny_llama(tmp_path / "host"))
    texts = ["born in a street "] * 4000
    plan = plan_rows(texts, HostPlan(host, 1).tokenize, 16)

    def task(index: int) -> ShardTask:
        shard = plan.shard(index)
        return ShardTask(shard, texts[shard.first_document : shard.stop_document])

    cluster = Cluster(
        initialize_head=True,
        # Without a port Ray looks for a free one, even for a dashboard that is not to be.
        head_node_args={"num_cpus": 1, "include_dashboard": False, "dashboard_port": None},
    )
    ray.init(address=cluster.address)
    try:
        with HarvestPool(host, 1, at_least=3) as pool:
            records = pool.run(Store.open(str(tmp_path / "out")), range(plan.n_shards), task)
            next(records)
            # What waits for room is the demand that an autoscaler sees.
            assert len(pool._working) == 1 and len(pool._starting) == 2
            cluster.add_node(num_cpus=3)
            # Slow enough that the new actors have minutes to start, and that there is always a
            # shard that is done when the next one is asked for.
            while len(pool._working) < 4:
                time.sleep(0.1)
                next(records)
    finally:
        ray.shutdown()
        cluster.shutdown()
