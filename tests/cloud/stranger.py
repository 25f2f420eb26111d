"""What a machine on the private network but not of the cluster can do; where secrets lie."""

import json
import re
import shlex

from tests.cloud.machines import KEY, CloudProcess

# Tells what answers on a port: refused, not HTTP, or the HTTP status of each path.
_PROBE = """
import json, sys, urllib.request, urllib.error
from concurrent.futures import ThreadPoolExecutor
host, ports, paths = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
def ask(port, path):
    job = b'{"entrypoint": "touch /tmp/stranger-was-here"}'
    body = job if path.startswith("POST ") else None
    request = urllib.request.Request(
        f"http://{host}:{port}{path.removeprefix('POST ')}", body,
        {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:
            return [reply.status, reply.read(300).decode(errors="replace")]
    except urllib.error.HTTPError as error:
        return [error.code, ""]
    except Exception as error:
        return [0, type(error).__name__]
with ThreadPoolExecutor(16) as pool:
    asked = {f"{port} {path}": pool.submit(ask, port, path) for port in ports for path in paths}
    print(json.dumps({where: answer.result() for where, answer in asked.items()}))
"""

# Every file below the given folders that was written since the machine began, and every process,
# that shows the key, as root. The host's own files, which lie below the machine's, are older.
_SEARCH = """
import os, subprocess, sys
key = b"".join(part.encode() for part in sys.argv[1:3])
def has(path):
    try:
        with open(path, "rb") as file:
            return key in file.read()
    except OSError:
        return False
new = ["find", *sys.argv[3:], "-type", "f", "-cnewer", "/run/host_key", "-print0"]
for path in subprocess.run(new, stdout=subprocess.PIPE).stdout.split(b"\\0"):
    if has(path):
        print(path.decode())
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("cmdline", "environ"):
        if has(f"/proc/{pid}/{name}"):
            print(f"/proc/{pid}/{name}")
"""

PATHS = (
    "/api/version",
    "/api/jobs/",
    "/api/cluster_status",
    "/nodes?view=summary",
    "/api/v0/nodes",
    "/logs/",
    "/api/job_agent/jobs/",
    "POST /api/jobs/",
    "POST /api/job_agent/jobs/",
)
"""What would be worth having: job API, dashboard, state, logs, on the head or on an agent."""


def python(script: str, *arguments: str, root: bool = False) -> str:
    """A shell command that runs a script on a machine."""
    words = ("-c", script, *arguments)
    python = '"$(command -v python)"'
    return f"{'sudo -n ' if root else ''}{python} {shlex.join(words)}"


def places_of_the_key(cloud: CloudProcess, ip: str) -> list[str]:
    """Files and processes of a machine that hold the API key."""
    halves = (KEY[:12], KEY[12:])
    folders = ("/home", "/tmp", "/run", "/dev/shm", "/var", "/etc", "/root", "/opt", "/srv", "/mnt")
    output = cloud.ssh(ip, python(_SEARCH, *halves, *folders, root=True), timeout_s=300).stdout
    return output.split()


def open_ports(cloud: CloudProcess, ip: str) -> list[int]:
    """Ports of a machine on which something listens for others than the machine itself."""
    listing = cloud.ssh(ip, "ss -Hltn").stdout
    found = re.findall(r"^\S+\s+\S+\s+\S+\s+(\S+):(\d+)\s", listing, re.M)
    return sorted({int(port) for host, port in found if not host.startswith("127.")})


def answers_to(cloud: CloudProcess, stranger: str, ip: str) -> dict[str, tuple[int, str]]:
    """(HTTP status, beginning of the body) by "port path", as the stranger sees them."""
    ports = json.dumps([*open_ports(cloud, ip), 8265])
    output = cloud.ssh(stranger, python(_PROBE, ip, ports, json.dumps(PATHS)), timeout_s=200).stdout
    return {where: (status, body) for where, (status, body) in json.loads(output).items()}


def ray_refuses(cloud: CloudProcess, stranger: str, head_ip: str) -> None:
    """Neither a driver nor a node of the stranger's gets in: without a token, or with another."""
    join = f"ray start --address={head_ip}:6379 --disable-usage-stats"
    drive = f"import ray; ray.init(address='{head_ip}:6379'); print('in', ray.nodes())"
    attempts = [
        f"{credentials} timeout 60 {command}"
        for credentials in ("RAY_AUTH_MODE=disabled", f"RAY_AUTH_TOKEN={'0' * 64}")
        for command in (join, f"python -c {shlex.quote(drive)}")
    ]
    # All at once: each waits for half a minute before it gives up.
    started = [f"({a}; echo ended $?) > attempt{n} 2>&1 &" for n, a in enumerate(attempts)]
    cloud.ssh(stranger, " ".join((*started, "wait")), timeout_s=200)
    for number, attempt in enumerate(attempts):
        said = cloud.ssh(stranger, f"cat attempt{number}").stdout
        ended = re.findall(r"^ended (\d+)$", said, re.M)
        assert ended and ended[0] != "0" and "in [" not in said, f"{attempt}: {said}"
