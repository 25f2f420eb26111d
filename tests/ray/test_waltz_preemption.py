"""A machine that Ray knows is about to go: its training is saved, and goes on on another one."""

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from ray_jobs.waltzrl.models.world import WorldModelSize, build_world_model
from tests.ray.training import Lines
from tests.ray.waltz_rig import SHORT, curves, model_in, run_alone, train

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(600),
    # DeepSpeed uses what PyTorch 2.13 deprecates.
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning"),
]

NOTICE_S = 5
STEPS = 200


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head that runs no tasks, and two nodes with room for one worker each."""
    # Without a port Ray looks for a free one.
    head = {"num_cpus": 0, "dashboard_port": None}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def take_away_a_node(cluster: Cluster) -> None:
    """A node with a worker is told that it will go, and goes."""
    node = next(node for node in cluster.list_all_nodes() if node is not cluster.head_node)
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int((time.time() + NOTICE_S) * 1000)
    accepted, why = GcsClient(address=cluster.address).drain_node(
        node.node_id, reason, "the test takes it away", deadline_ms
    )
    assert accepted, why
    time.sleep(NOTICE_S)
    cluster.remove_node(node, allow_graceful=False)


def test_an_elastic_training_leaves_a_machine_that_goes_with_everything_saved(
    cluster: Cluster, tmp_path: Path, lines: Lines
) -> None:
    build_world_model(tmp_path / "model", seed=0, size=WorldModelSize(steps=100))
    # No checkpoint is due before the end.
    config = replace(
        SHORT,
        stage1_steps=STEPS,
        max_steps=2,
        checkpoint_every_steps=STEPS,
        checkpoint_every_minutes=1e6,
        eval_every_steps=STEPS,
    )
    takers: list[threading.Thread] = []

    def take_away_once(line: str) -> None:
        if line.startswith("waltz  stage 1") and not takers:
            takers.append(threading.Thread(target=take_away_a_node, args=(cluster,)))
            takers[0].start()

    lines.on_line = take_away_once
    train(tmp_path / "run", tmp_path / "model", config, num_workers="1-2", max_failures=0)
    takers[0].join()
    seen = "\n".join(lines.lines)
    saved = re.findall(r"a machine is being taken away: step (\d+) is saved", seen)
    assert len(saved) == 1 and 0 < int(saved[0]) < STEPS
    assert re.search(rf"resuming from checkpoint .* \(step {saved[0]}\)", seen), seen
    assert re.findall(r"worker 0 of (\d) runs", seen)[:2] == ["2", "1"], seen
    elastic = curves(tmp_path / "run", "gradient")
    assert elastic["stage_1", "steps"] == list(range(1, STEPS + 1))
    # As one worker begins: rounding may flip a sampled token later.
    short = replace(config, stage1_steps=2, checkpoint_every_steps=1, eval_every_steps=2)
    run_alone(short, model_in(tmp_path / "model"), tmp_path / "fixed")
    for name, values in curves(tmp_path / "fixed", "gradient").items():
        if name[0] == "stage_1":
            assert elastic[name][:2] == pytest.approx(values, abs=2e-4), name
