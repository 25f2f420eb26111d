"""From a demand to a node that has joined, step by step, on the simulated cloud's real machines.

    python -m benchmarks.node_start [--nodes 3] [--full-setup]

`ray up cluster/lambda.yaml`, then a program asks Ray for one more node at a time. All clocks
are this host's. Boots are what the simulator is told to take, not Lambda's, which take
minutes; machines have the environment ready, as an image of one's own would. With
`--full-setup` nothing is ready, and everything comes from PyPI through a tunnel.
Needs root, and what the tests of tests/cloud need.
"""

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.tunnel import tunnelling
from tests.cloud.laptop import Laptop
from tests.cloud.machines import CloudProcess

BOOT_S = 3.0
CPUS = 20
"""Of a demand: more than the head has, and most of what a worker has."""
STEPS = ("request", "boot", "ssh and files", "setup", "ray start", "all")

PROGRAM = f"""
import json, sys, time
import ray
from ray.autoscaler.sdk import request_resources

ray.init(log_to_driver=False)
for wanted in range(1, int(sys.argv[1]) + 1):
    asked_s = time.time()
    request_resources(bundles=[{{"CPU": {CPUS}}}] * wanted)
    while len(alive := [n for n in ray.nodes() if n["Alive"]]) < 1 + wanted:
        time.sleep(0.05)
    print("joined", json.dumps([asked_s, time.time(), alive[-1]["NodeManagerAddress"]]))
"""


NOT_READY = "/usr/bin:/bin"
"""The PATH of a machine on which only the system's own Python is found."""
CERTIFICATES = "SSL_CERT_FILE"
"""Where this host reaches PyPI by way of an authority of its own, so must the machines."""


@contextmanager
def full_setup(cloud: CloudProcess) -> Iterator[str]:
    """The setup command of a machine that has nothing but a way to PyPI."""
    host = urlsplit(cloud.url).hostname
    assert host is not None
    with tunnelling(host) as proxy:
        exports = {"PATH": NOT_READY, "HTTPS_PROXY": proxy}
        if CERTIFICATES in os.environ:
            exports[CERTIFICATES] = os.environ[CERTIFICATES]
        words = " ".join(f"{name}={value}" for name, value in exports.items())
        yield f"{words} bash ~/raylambda/cluster/setup_node.sh"


def measure(folder: Path, nodes: int, full: bool) -> list[dict[str, float]]:
    """Seconds of each of STEPS, one row a node."""
    boot = {"boot_s": {size: [BOOT_S, BOOT_S] for size in ("cpu", "single", "multi")}}
    flags = ["--run-dir", str(folder / "run")]
    # The environment's 5.4 GB lie in the machine's memory.
    flags += ["--memory-gib", "10", "--disk-gib", "8"] if full else ["--memory-gib", "5"]
    with ExitStack() as stack:
        cloud = stack.enter_context(CloudProcess("root", folder, *flags, settings=boot))
        laptop = Laptop(folder / "home", f"{cloud.url}/api/v1", {})
        changes: dict[str, Any] = {"idle_timeout_minutes": 5}
        if full:
            changes["setup_commands"] = [stack.enter_context(full_setup(cloud))]
        yaml = laptop.write_cluster("node-start", **changes)
        laptop.ray("up", "--yes", yaml, timeout_s=900)
        cloud.identities.append(laptop.home / ".raylambda" / "id_ed25519")
        program = folder / "demand.py"
        program.write_text(PROGRAM)
        said = laptop.ray("submit", yaml, str(program), str(nodes), timeout_s=1800)
        rows = cloud.call("GET", "/sim/ledger")["rows"]
        joined = [json.loads(found) for found in re.findall(r"^joined (.*)$", said, re.M)]
        assert len(joined) == nodes, said
        workers = sorted(
            (row for row in rows if row["tags"].get("ray-node-type") == "worker"),
            key=lambda row: row["launched_at"],
        )
        return [
            split(cloud, worker, *times[:2]) for worker, times in zip(workers, joined, strict=True)
        ]


def split(
    cloud: CloudProcess, row: dict[str, Any], asked_s: float, joined_s: float
) -> dict[str, float]:
    """The moments of one worker, as cloud and machine keep them."""
    active_s = next(each["at"] for each in row["history"] if each["status"] == "active")
    # The last file of the file mounts, and the last that the setup writes.
    mounts, profile = "~/raylambda/requirements-host.lock", "~/.raylambda/node.env"
    said = cloud.ssh(cloud.active(row["id"]), f"stat -c %.9Z {mounts} {profile}").stdout.split()
    moments = [asked_s, row["launched_at"], active_s, *map(float, said), joined_s]
    seconds = [later - sooner for sooner, later in zip(moments, moments[1:], strict=False)]
    return dict(zip(STEPS, [*seconds, joined_s - asked_s], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--full-setup", action="store_true", help="machines have nothing ready")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="node-start-") as folder:
        rows = measure(Path(folder), options.nodes, options.full_setup)
    sys.stdout.write("| step | seconds (median) | each |\n|---|---|---|\n")
    for step in STEPS:
        found = [row[step] for row in rows]
        each = ", ".join(f"{seconds:.1f}" for seconds in found)
        sys.stdout.write(f"| {step} | {statistics.median(found):.1f} | {each} |\n")


if __name__ == "__main__":
    main()
