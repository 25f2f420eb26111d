"""A cluster on machines of the simulated Lambda Cloud: `raylambda sim`, `ray up`, `ray down`.

The same commands, YAML and provider as on the real one; only the address of the API differs.
The machines are namespaces of this host with an sshd each. Everything is a child of this
process, so nothing outlives it, and the commands have a home directory of their own, so the
user's clusters and keys are not touched.
"""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data.errors import JobError
from ray_jobs.demo.local_ray import free_ports

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
NAME = "demo"
REGION = "us-east-1"
SHARED = f"/lambda/nfs/{NAME}"
"""The simulated file system that all its machines mount; its files stay for the next demo."""

WORKER_CPUS = 2
BOOT_S = 2.0
"""Lambda's machines take minutes to boot; nobody learns anything from waiting for these."""


def why_no_machines() -> str | None:
    """Why machines cannot be simulated here, in one line; None when they can."""
    done = subprocess.run(
        [sys.executable, "-m", "autoscaler.cli", "sim", "--machines", "auto", "--check"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    return None if done.returncode == 0 else done.stderr.strip() or "no reason was given"


@dataclass(frozen=True)
class Cloud:
    """A running simulator. `api` is where laptop and machines reach it; commands that talk to
    machines start with `prefix`, which is empty with root. `key` is this start's own: nobody else
    on the machine knows it, and it is not the user's for Lambda."""

    api: str
    controls: str
    prefix: tuple[str, ...]
    key: str

    def control(self, path: str) -> Any:
        """What the simulator says of itself."""
        with urllib.request.urlopen(f"{self.controls}/sim/{path}", timeout=30) as reply:
            return json.load(reply)["data"]


@contextmanager
def simulated_cloud(folder: Path) -> Iterator[Cloud]:
    """The simulator as a child; `folder` keeps its file systems and logs.

    Raises:
        JobError: it ended before it listened.
    """
    boot = json.dumps({size: [BOOT_S, BOOT_S] for size in ("cpu", "single", "multi")})
    command = [
        *("setpriv", "--pdeathsig", "TERM", "--"),  # the cloud ends with us, however we end
        *(sys.executable, "-m", "autoscaler.cli", "sim", "--machines", "auto"),
        *("--run-dir", str(folder), "--set", f"boot_s={boot}", "--set", "terminating_s=[1, 1]"),
    ]
    key = secrets.token_hex(16)
    with subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=os.environ | {"LAMBDA_API_KEY": key},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline().strip() for _ in range(2)]
            if not lines[1]:
                raise JobError("the simulated cloud ended before it listened; its words are above")
            if "(root)" in lines[1]:
                yield Cloud(lines[0], lines[0].removesuffix("/api/v1"), (), key)
            else:
                lines += [process.stdout.readline().strip() for _ in range(2)]
                inside = lines[2].partition(": ")[2]
                prefix = lines[3].partition(": ")[2].removesuffix(" COMMAND").split()
                yield Cloud(inside, lines[0].removesuffix("/api/v1"), tuple(prefix), key)
        finally:
            process.terminate()


class SimulatedCluster:
    """A cluster of `cluster/lambda.yaml`'s kind; its commands' output goes to `log`."""

    def __init__(self, cloud: Cloud, home: Path, log: Path) -> None:
        self.cloud, self.home, self.log = cloud, home, log
        self.yaml = home / f"{NAME}.yaml"
        self.yaml.write_text(yaml.safe_dump(cluster_config()))
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "LAMBDA_"))}
        self.environment = {
            **kept,
            "HOME": str(home),
            "TMPDIR": str(home),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "LAMBDA_API_URL": cloud.api,
            "LAMBDA_API_KEY": cloud.key,
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def ray(self, *words: str) -> str:
        """Run one of Ray's commands and return its output.

        Raises:
            JobError: it failed; with its last line.
        """
        command = [*self.cloud.prefix, str(BIN / "ray"), *words]
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        with self.log.open("a") as log:
            log.write(f"$ ray {' '.join(words)}\n{done.stdout}\n")
        if done.returncode:
            last = (done.stdout.strip().splitlines() or ["nothing"])[-1]
            raise JobError(f"ray {words[0]} failed: {last}; all of it is in {self.log}")
        return done.stdout

    @contextmanager
    def dashboard(self) -> Iterator[str]:
        """`ray dashboard`, left open; the address of the job API on this machine."""
        (port,) = free_ports(1)
        command = [*self.cloud.prefix, str(BIN / "ray"), "dashboard", str(self.yaml)]
        with subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=REPOSITORY,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            try:
                yield f"http://127.0.0.1:{port}"
            finally:
                os.killpg(process.pid, 15)

    @property
    def token(self) -> str:
        """What the job API asks for; `ray up` has made it."""
        return (self.home / ".ray" / "auth_token").read_text().strip()


@contextmanager
def simulated_cluster(folder: Path, log: Path) -> Iterator[SimulatedCluster]:
    """A cloud and, on it, a cluster whose `ray up` is still to come."""
    with ExitStack() as stack:
        cloud = stack.enter_context(simulated_cloud(folder))
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="rl-"))
        cluster = SimulatedCluster(cloud, Path(home), log)
        _make_file_system(cloud)
        yield cluster


def cluster_config() -> dict[str, Any]:
    """`cluster/lambda.yaml` with machines that this host can carry: a head that runs no tasks,
    and one CPU worker that comes when a job needs it."""
    config = yaml.safe_load((REPOSITORY / "cluster" / "lambda.yaml").read_text())
    head = {"node_config": {"instance_types": ["cpu_4x_general"]}, "resources": {"CPU": 0}}
    worker = {
        "node_config": {"instance_types": ["cpu_4x_general"]},
        "resources": {"CPU": WORKER_CPUS},
        "max_workers": 1,
    }
    config |= {
        "cluster_name": NAME,
        "max_workers": 1,
        "available_node_types": {"head": head, "worker": worker},
    }
    config["provider"] |= {"regions": [REGION], "filesystems": [NAME]}
    return config


def _make_file_system(cloud: Cloud) -> None:
    request = urllib.request.Request(
        f"{cloud.api}/filesystems",
        json.dumps({"name": NAME, "region": REGION}).encode(),
        {"Content-Type": "application/json", "Authorization": "Bearer sim"},
    )
    with urllib.request.urlopen(request, timeout=30):
        pass
