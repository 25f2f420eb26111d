"""Ray's own commands on `cluster/lambda.yaml` against the simulated cloud's real machines: from
`ray up` over a job whose worker dies to `ray down` and a bill of zero."""

import json
import re
from pathlib import Path

import pytest

from ray_jobs.run_directory import verify
from ray_jobs.storage import Store
from tests.cloud import stranger
from tests.cloud.cluster import Cluster, cluster_up, result_uri
from tests.cloud.machines import KEY, require_machines, wait_for
from tests.storage.ceph import CephServer

pytestmark = [pytest.mark.cloud, pytest.mark.storage, pytest.mark.timeout(1500)]

SAE_JOB = (
    *("python", "-m", "ray_jobs.sae.train", "--recipe", "demo", "--json"),
    *("--documents", "60", "--languages", "en", "--epochs", "200", "--max-steps", "240"),
    *("--n-latents", "1536", "--batch-size", "512", "--checkpoint-every-steps", "40"),
    # More than the head has, so that a worker must come.
    *("--no-use-gpu", "--cpus-per-worker", "5"),
)
STEPS = 240


def check_commands(cluster: Cluster, folder: Path) -> None:
    """exec, get-head-ip, attach, rsync up and down, submit, status."""
    (head,) = cluster.nodes("head")
    assert cluster.address(head) in cluster.ray("get-head-ip")
    sent, got = folder / "sent.txt", folder / "got.txt"
    sent.write_text("there and back\n")
    cluster.ray("rsync-up", str(sent), "/home/ubuntu/sent.txt")
    assert "there and back" in cluster.ray("exec", "cat sent.txt")
    cluster.ray("rsync-down", "/home/ubuntu/sent.txt", str(got))
    assert got.read_text() == sent.read_text()
    script = folder / "answer.py"
    script.write_text("import ray\nray.init()\nprint('answer', ray.get(ray.put(42)))\n")
    assert "answer 42" in cluster.ray("submit", str(script))
    assert "typed 42" in cluster.ray("attach", typed="echo typed $((6 * 7))\nexit\n")
    shown = cluster.laptop.raylambda("status", "--cluster", cluster.name)
    assert "1 instance, $0.20/h" in shown and "cpu_4x_general" in shown and "launched" in shown


def check_secrets(cluster: Cluster, worker_ip: str) -> None:
    """The API key is on the head, in one file, and nowhere else; the token is everyone's own."""
    (head,) = cluster.nodes("head")
    head_ip = cluster.address(head)
    cloud, laptop = cluster.cloud, cluster.laptop
    assert stranger.places_of_the_key(cloud, head_ip) == ["/home/ubuntu/.raylambda/api_key"]
    assert stranger.places_of_the_key(cloud, worker_ip) == []
    for ip, name in (
        (head_ip, ".raylambda/api_key"),
        (head_ip, ".ray/auth_token"),
        (worker_ip, ".ray/auth_token"),
    ):
        assert cloud.ssh(ip, f"stat -c %a ~/{name}").stdout == "600\n"
    holders = [
        path
        for path in laptop.home.rglob("*")
        if path.is_file() and not path.is_symlink() and KEY.encode() in path.read_bytes()
    ]
    assert [path.name for path in holders] == ["api_key"]
    assert holders[0].stat().st_mode & 0o777 == 0o600


def check_strangers(cluster: Cluster) -> None:
    """A machine of the same private network, which is not of the cluster, gets nothing."""
    cloud = cluster.cloud
    other = cloud.active(cluster.stranger)
    (head,) = cluster.nodes("head")
    head_ip = cluster.address(head)
    nodes_before = node_count(cluster)
    for ip in (head_ip, *map(cluster.address, cluster.nodes("worker"))):
        answers = stranger.answers_to(cloud, other, ip)
        told = {where: a for where, a in answers.items() if a[0] == 200}
        # Some servers answer any path with their own page; none gives what was asked for.
        assert not [
            w for w, (_, body) in told.items() if "POST" in w or body.startswith(("{", "["))
        ]
        assert all(a[0] == 0 for where, a in answers.items() if where.startswith("8265 "))
        assert cloud.ssh(ip, "test -e /tmp/stranger-was-here", check=False).returncode == 1
    stranger.ray_refuses(cloud, other, head_ip)
    assert node_count(cluster) == nodes_before


def node_count(cluster: Cluster) -> int:
    """Nodes that the head's Ray counts as alive."""
    code = "import ray; ray.init(); print('nodes', sum(n['Alive'] for n in ray.nodes()))"
    said = cluster.ray("exec", f'python -c "{code}"')
    found = re.search(r"^nodes (\d+)", said, re.M)
    assert found, said
    return int(found[1])


def test_a_cluster_whose_worker_dies_in_training(tmp_path: Path, s3: CephServer) -> None:
    require_machines("root")
    with cluster_up(tmp_path, s3, v2=True) as cluster:
        note = cluster.laptop.note
        check_commands(cluster, tmp_path)
        note("commands")
        uri = result_uri(s3, cluster.cloud, "v2")
        with cluster.job(*SAE_JOB, "--output-dir", uri) as job:
            job.wait_for(r"train  worker 0 of 1 runs")
            (worker,) = cluster.nodes("worker")
            note(f"training on a {worker['instance_type']}")
            job.wait_for(r"checkpoint of step \d+ committed")
            fault = {"kind": "preempt", "instance_id": worker["id"]}
            cluster.cloud.call("POST", "/sim/faults", fault)
            note("worker killed")
            job.wait_for(r"going on from checkpoint")
            note("training again")
            (second,) = cluster.nodes("worker")
            assert second["id"] != worker["id"]
            check_secrets(cluster, cluster.address(second))
            note("secrets")
            job.finish()
            note("job done")
        summary = json.loads(re.findall(r"^\{.*\}$", job.text, re.M)[-1])
        assert summary["steps"] == STEPS
        run = Store.open(uri)
        assert verify(run) > 0
        run.fetch("sae_final.pt", tmp_path / "sae_final.pt")
        wait_for("idle worker gone", lambda: not cluster.nodes("worker"), 120)
        note("idle worker gone")
        check_strangers(cluster)
        note("strangers")
        cluster.down_to_nothing()


def test_the_older_autoscaler(tmp_path: Path, s3: CephServer) -> None:
    require_machines("root")
    with cluster_up(tmp_path, s3, v2=False) as cluster:
        uri = result_uri(s3, cluster.cloud, "v1")
        with cluster.job(*SAE_JOB, "--max-steps", "60", "--output-dir", uri) as job:
            job.wait_for(r"train  worker 0 of 1 runs")
            assert len(cluster.nodes("worker")) == 1
            cluster.laptop.note("training")
            job.finish()
        assert verify(Store.open(uri)) > 0
        wait_for("idle worker gone", lambda: not cluster.nodes("worker"), 120)
        cluster.laptop.note("idle worker gone")
        said = cluster.ray("exec", "echo last words", "--stop")
        assert "last words" in said and "The cluster has ended" in said
        assert not cluster.nodes("head")
        cluster.laptop.note("the cluster has stopped itself")
        cluster.down_to_nothing()
