"""Ray's own commands on `cluster/lambda.yaml` against the simulated cloud's real machines.

From `ray up` over a job whose workers are refused, unhealthy and die to `ray down` and a bill of
zero.
"""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from autoscaler.instances.unavailable_offerings import Reason
from data.storage import Store
from ray_jobs.results.run_directory import verify
from tests.cloud import stranger
from tests.cloud.cluster import Cluster, cluster_up, result_uri
from tests.cloud.laptop import Laptop
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


NO_CAPACITY = "instance-operations/launch/insufficient-capacity"
BAD_DAY = (
    {"kind": "fail_next", "endpoint": "instance_types", "failure": 503},
    {"kind": "fail_next", "endpoint": "launch", "failure": 400, "code": NO_CAPACITY},
    {"kind": "dead_cuda"},
)
"""What the head meets when it wants its first worker: an API that fails once, a type that is
sold out, and then a machine whose CUDA does not start."""


def check_refusals(cluster: Cluster) -> None:
    """Each of the bad day's events is told once: on the laptop and in Ray's own log."""
    shown = cluster.laptop.raylambda("status", "--cluster", cluster.name, "--events", "100")
    of_laptop, _, of_head = shown.partition(f"on the head of {cluster.name}:")
    assert "cpu_4x_general" in of_laptop and "  launched  " in of_laptop, shown
    assert "  watching  " in of_head, shown
    offering = "type=gpu_1x_", "region=us-east-1"
    for event, *words in (
        ("request-retried", "/instance-types", "code=global/internal-error"),
        ("offering-unavailable", *offering, f"code={NO_CAPACITY}"),
        ("node-unhealthy", *offering, 'reason="CUDA does not start: error 802"'),
    ):
        words += [f"  {event}  ", "next_try=20"]
        told = [line for line in of_head.splitlines() if all(w in line for w in words)]
        assert len(told) == 1, f"{event}: {shown}"
    assert Reason.SUSPECT.value in of_head.partition("not tried now:")[2]
    log = cluster.ray("exec", "cat /tmp/ray/session_latest/logs/monitor.log")
    for words in (
        "(global/internal-error); sent again at 20",
        f"no capacity ({NO_CAPACITY}); next try 20",
        "CUDA does not start: error 802; offering unavailable until 20",
    ):
        assert log.count(words) == 1, log


def check_commands(cluster: Cluster, folder: Path) -> None:
    """exec, get-head-ip, attach, rsync up and down, submit."""
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


def check_secrets(cluster: Cluster, ip: str, *holders: str) -> None:
    """The API key is on a node in these files and in no process; the token is its owner's."""
    assert stranger.places_of_the_key(cluster.cloud, ip) == list(holders)
    for path in (*holders, "/home/ubuntu/.ray/auth_token"):
        assert cluster.cloud.ssh(ip, f"stat -c %a {path}").stdout == "600\n"


def check_laptop(laptop: Laptop) -> None:
    """The API key is in one file of it."""
    holders = [
        path
        for path in laptop.home.rglob("*")
        if path.is_file() and not path.is_symlink() and KEY.encode() in path.read_bytes()
    ]
    assert [path.name for path in holders] == ["api_key"]
    assert holders[0].stat().st_mode & 0o777 == 0o600


def check_ports(cluster: Cluster, ip: str) -> None:
    """A machine of the private network, but not of the cluster, gets nothing of a node."""
    cloud = cluster.cloud
    answers = stranger.answers_to(cloud, cloud.active(cluster.stranger), ip)
    assert len(answers) > len(stranger.PATHS), f"{ip} has no open port"
    told = {where: a for where, a in answers.items() if a[0] == 200}
    # Some servers answer any path with their own page; none gives what was asked for.
    assert not [w for w, (_, body) in told.items() if "POST" in w or body.startswith(("{", "["))]
    assert all(a[0] == 0 for where, a in answers.items() if where.startswith("8265 "))
    assert cloud.ssh(ip, "test -e /tmp/stranger-was-here", check=False).returncode == 1


def check_ray_refuses(cluster: Cluster, head_ip: str) -> None:
    """Nor does it become a node, or a driver."""
    cloud = cluster.cloud
    other = cloud.active(cluster.stranger)
    stranger.ray_refuses(cloud, other, head_ip)
    code = "import ray; ray.init(); print(*(n['NodeManagerAddress'] for n in ray.nodes()))"
    nodes = cluster.ray("exec", f'python -c "{code}"')
    own = cloud.ssh(other, "hostname -I").stdout.split()
    assert own and head_ip in nodes and not set(own) & set(nodes.split()), nodes


def test_a_cluster_on_a_bad_day(tmp_path: Path, s3: CephServer) -> None:
    require_machines("root")
    # Time to look at a worker whose job may be done meanwhile.
    with cluster_up(tmp_path, s3, v2=True, idle_timeout_minutes=0.4) as cluster:
        note = cluster.laptop.note
        for fault in BAD_DAY:
            cluster.cloud.call("POST", "/sim/faults", fault)
        uri = result_uri(s3, cluster.cloud, "v2")
        with cluster.job(*SAE_JOB, "--output-dir", uri) as job:
            check_commands(cluster, tmp_path)
            note("commands")
            job.wait_for(r"train  worker 0 of 1 runs")
            (worker,) = cluster.nodes("worker")
            note(f"training on a {worker['instance_type']}")
            check_refusals(cluster)
            note("refusals")
            job.wait_for(r"checkpoint of step \d+ committed")
            fault = {"kind": "preempt", "instance_id": worker["id"]}
            cluster.cloud.call("POST", "/sim/faults", fault)
            note("worker killed")
            job.wait_for(r"resuming from checkpoint")
            note("training again")
            (second,) = cluster.nodes("worker")
            assert second["id"] != worker["id"]
            ip = cluster.address(second)
            with ThreadPoolExecutor() as pool:  # while the worker is there
                checks = [pool.submit(c, cluster, ip) for c in (check_ports, check_secrets)]
            for check in checks:
                check.result()
            note("worker's ports and secrets")
            job.finish()
            note("job done")
        summary = json.loads(re.findall(r"^\{.*\}$", job.text, re.M)[-1])
        assert summary["steps"] == STEPS
        run = Store.open(uri)
        assert verify(run) > 0
        run.fetch("sae_final.pt", tmp_path / "sae_final.pt")
        (head,) = cluster.nodes("head")
        head_ip = cluster.address(head)
        check_ports(cluster, head_ip)
        check_secrets(cluster, head_ip, "/home/ubuntu/.raylambda/api_key")
        check_laptop(cluster.laptop)
        note("head's ports and secrets")
        check_ray_refuses(cluster, head_ip)
        note("ray refuses")
        wait_for("idle worker gone", lambda: not cluster.nodes("worker"), 120)
        note("idle worker gone")
        cluster.down_to_nothing()


def test_the_older_autoscaler(tmp_path: Path, s3: CephServer) -> None:
    require_machines("root")
    with cluster_up(tmp_path, s3, v2=False) as cluster:
        uri = result_uri(s3, cluster.cloud, "v1")
        with cluster.job(*SAE_JOB, "--max-steps", "60", "--output-dir", uri) as job:
            check_commands(cluster, tmp_path)
            cluster.laptop.note("commands")
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
