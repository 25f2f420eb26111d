"""An elastic training takes the node that joins, and ends as if it had not."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from ray_jobs.activations.prepare import Prepared
from ray_jobs.runtime import fit as runtime
from ray_jobs.sae.loop import Worker, train_loop
from ray_jobs.sae.measure import StepStatistics
from tests.ray.training import CONFIG, Lines, train

pytestmark = pytest.mark.ray


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """One node with room for one worker."""
    # Without a port Ray looks for a free one, even for a dashboard that is not to be.
    head = {"num_cpus": 1, "include_dashboard": False, "dashboard_port": None}
    # Hooks at exit can be set in the main thread only, and the node joins in another.
    cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def patient(task: dict[str, Any]) -> None:
    """The training loop, where one worker alone takes its time."""
    take_step = Worker.take_step

    def slowly(self: Worker) -> StepStatistics:
        if self.world_size == 1:
            time.sleep(0.5)
        return take_step(self)

    Worker.take_step = slowly
    train_loop(task)


def test_a_node_that_joins_is_used_and_changes_no_loss(
    cluster: Cluster,
    data: Prepared,
    tmp_path: Path,
    lines: Lines,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(CONFIG, epochs=1, checkpoint_every_steps=5)
    fixed = train(tmp_path / "fixed", data, config, cpus_per_worker=1)
    monkeypatch.setattr(runtime, "RESIZE_INTERVAL_S", 1.0)
    monkeypatch.setattr("ray_jobs.sae.job.train_loop", patient)
    joined: list[object] = []

    def join_once(line: str) -> None:
        if "checkpoint of step" in line and not joined:
            joined.append(cluster.add_node(num_cpus=1))

    lines.lines.clear()
    lines.on_line = join_once
    grown = train(tmp_path / "grown", data, config, num_workers="1-2", cpus_per_worker=1)
    seen = [line for line in lines.lines if "worker 0 of" in line or "resuming from" in line]
    assert ["worker 0 of 1 runs" in seen[0], "worker 0 of 2 runs" in seen[-2]] == [True, True], seen
    assert "resuming from checkpoint" in seen[-1], seen
    assert grown["steps"] == fixed["steps"]
    torch.testing.assert_close(
        torch.tensor(grown["losses"]), torch.tensor(fixed["losses"]), rtol=0, atol=1e-5
    )
