"""A sweep whose nodes come for it, one of them taken away in its middle, and go after it."""

import re
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.run_directory import verify
from ray_jobs.storage import Store
from tests.cloud.cluster import Cluster, Job, cluster_up, result_uri
from tests.cloud.machines import require_machines, wait_for
from tests.storage.ceph import CephServer

pytestmark = [pytest.mark.cloud, pytest.mark.storage, pytest.mark.timeout(1500)]

NODES = 3
NODE_TYPES = {
    "head": {"node_config": {"instance_types": ["cpu_4x_general"]}, "resources": {"CPU": 0}},
    "worker": {
        "node_config": {"instance_types": ["cpu_4x_general"]},
        "resources": {"CPU": 2},
        "max_workers": NODES,
    },
}
"""A head that runs no tasks, and workers that hold one trial each."""

# No trial may end before its fourth check, however good or bad: half a minute of two cores, so
# that eight of them last until the third node has come, on a machine twice as fast too.
SWEEP_JOB = (
    *("python", "-m", "ray_jobs.sae.sweep", "--recipe", "demo", "--json"),
    *("--documents", "60", "--languages", "en", "--epochs", "900", "--max-steps", "1600"),
    *("--grace-checks", "4", "--early-stopping-patience", "9"),
    *("--space", "learning_rate=1e-3:1e-2 n_latents=512,768", "--batch-size", "512"),
    *("--trials", "8", "--max-concurrent", str(NODES), "--cpus-per-worker", "2", "--no-use-gpu"),
)


def trial_nodes(job: Job) -> dict[int, str]:
    """The address of the node on which each trial first reported."""
    found = re.findall(r"sweep  trial (\d+) \(.*\) runs as process \d+ on (\S+)", job.text)
    return {int(number): ip for number, ip in found}


def trials_in(run: Store) -> list[dict[str, Any]]:
    return run.read_json("sweep.json")["trials"]


def a_busy_node(cluster: Cluster, run: Store, job: Job) -> dict[str, Any] | None:
    """The instance under a trial that has reported and still runs."""
    running = [trial["number"] for trial in trials_in(run) if trial["state"] == "running"]
    addresses = {cluster.address(row): row for row in cluster.nodes("worker")}
    nodes = trial_nodes(job)
    busy = (addresses[nodes[n]] for n in running if nodes.get(n) in addresses)
    return next(busy, None)


def test_a_sweep_over_three_nodes_one_of_them_taken_away(tmp_path: Path, s3: CephServer) -> None:
    require_machines("root")
    types = {"available_node_types": NODE_TYPES, "max_workers": NODES}
    with cluster_up(tmp_path, s3, v2=True, **types) as cluster:
        note = cluster.laptop.note
        uri = result_uri(s3, cluster.cloud, "sweep")
        run = Store.open(uri)
        with cluster.job(*SWEEP_JOB, "--output-dir", uri) as job:
            wait_for(
                "three nodes at work", lambda: len(set(trial_nodes(job).values())) == NODES, 400
            )
            note("three nodes at work")
            victim = wait_for("a busy node", lambda: a_busy_node(cluster, run, job), 120)
            fault = {"kind": "preempt", "instance_id": victim["id"]}
            cluster.cloud.call("POST", "/sim/faults", fault)
            note("node taken away")
            job.wait_for(r"trial \d+ lost its worker")
            job.finish(600)
            note("sweep done")
        trials = trials_in(run)
        assert [trial["number"] for trial in trials] == list(range(1, 9))
        assert {trial["state"] for trial in trials} <= {"finished", "plateau", "stopped"}
        steps = [[report["step"] for report in trial["reports"]] for trial in trials]
        assert all(each and each == sorted(set(each)) for each in steps), steps
        assert run.exists("sweep.html")
        assert verify(run.child("best")) >= 2
        wait_for("idle workers gone", lambda: not cluster.nodes("worker"), 180)
        note("idle workers gone")
        cluster.down_to_nothing()
