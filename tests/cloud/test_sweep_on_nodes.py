"""A sweep whose nodes come for it, one of them taken away in its middle, and go after it."""

import re
from pathlib import Path
from typing import Any

import pytest

from autoscaler.lambda_cloud.prices import price_list
from data.storage import Store
from ray_jobs.results.run_directory import digest_of, verify
from ray_jobs.sweep.space import shown_point
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


def listed_price_cents(instance_type: str) -> int:
    return price_list().types[instance_type].price_cents_per_hour or 0


def trials_in(run: Store) -> list[dict[str, Any]]:
    return run.read_json("sweep.json")["trials"]


def committed_step(run: Store, trial: dict[str, Any]) -> int:
    """The step of a trial's newest committed checkpoint; 0 without any."""
    identity = run.read_json("sweep.json")["identity"]
    folder = run.child("trials", digest_of(identity), digest_of(trial["point"]))
    names = re.findall(r"checkpoints/step-(\d+)-\S+/COMMITTED.json", "\n".join(folder.files()))
    return max(map(int, names), default=0)


def a_busy_node(
    cluster: Cluster, run: Store, job: Job
) -> tuple[dict[str, Any], int, dict[str, Any]] | None:
    """The instance under a running trial that has a checkpoint, its step, and the trial."""
    addresses = {cluster.address(row): row for row in cluster.nodes("worker")}
    nodes = trial_nodes(job)
    for trial in trials_in(run):
        node = addresses.get(nodes.get(trial["number"], ""))
        if trial["state"] == "running" and node is not None:
            step = committed_step(run, trial)
            if step:
                return node, step, trial
    return None


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
            found = wait_for("a busy node", lambda: a_busy_node(cluster, run, job), 120)
            victim, saved_step, lost = found
            fault = {"kind": "preempt", "instance_id": victim["id"]}
            cluster.cloud.call("POST", "/sim/faults", fault)
            note("node taken away")
            job.wait_for(rf"trial {lost['number']} lost its worker")
            job.finish(600)
            note("sweep done")
        # The trial went on from what it had saved, and did not begin again.
        begun_again = re.findall(
            rf"trial {re.escape(shown_point(lost['point']))}: .*resuming from .*\(step (\d+)\)",
            job.text,
        )
        assert begun_again and min(map(int, begun_again)) >= saved_step, job.text[-5000:]
        trials = trials_in(run)
        assert [trial["number"] for trial in trials] == list(range(1, 9))
        assert {trial["state"] for trial in trials} <= {"finished", "plateau", "stopped"}
        steps = [[report["step"] for report in trial["reports"]] for trial in trials]
        assert all(each and each == sorted(set(each)) for each in steps), steps
        # No price was given: it is that of the nodes' type.
        hourly = listed_price_cents("cpu_4x_general")
        assert {trial["cents_per_hour"] for trial in trials} == {hourly}
        nodes_s = 3600 * run.read_json("spend.json")["cents"] / hourly
        assert nodes_s > sum(trial["seconds"] for trial in trials)  # with head, harvest and waits
        assert run.exists("sweep.html")
        assert verify(run.child("best")) >= 2
        wait_for("idle workers gone", lambda: not cluster.nodes("worker"), 180)
        note("idle workers gone")
        cluster.down_to_nothing()
