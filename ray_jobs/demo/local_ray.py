"""`local_ray`: a Ray with a job server, as a child of this process, on free ports."""

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path


def free_ports(count: int) -> list[int]:
    """Ports of loopback that are free now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


OBJECT_STORE_BYTES = 512 * 2**20
"""Shards of the demo are a few MB; Ray's default would take 30 % of the machine's memory."""


@dataclass(frozen=True)
class LocalRay:
    """A Ray head that is a child of this process."""

    address: str
    """Of the dashboard and job API."""
    process: subprocess.Popen[bytes]
    output: Path

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def last_words(self) -> str:
        """The last line it wrote."""
        lines = self.output.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "nothing"


@contextmanager
def local_ray() -> Iterator[LocalRay]:
    """A Ray of our own with a job server on loopback, on ports that nobody else uses.

    `ray start` and not `ray.init`, which cannot choose the port of the node's agent: next
    to another Ray on this machine the job server would then take no job.
    """
    port, dashboard_port, client_port = free_ports(3)
    command = [
        *("setpriv", "--pdeathsig", "TERM", "--"),  # Ray ends with us, however we end
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--node-ip-address", "127.0.0.1", "--port", str(port), "--disable-usage-stats"),
        *("--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard_port)),
        *("--dashboard-agent-listen-port", "0", "--ray-client-server-port", str(client_port)),
        *("--object-store-memory", str(OBJECT_STORE_BYTES)),
    ]
    with tempfile.NamedTemporaryFile(prefix="raylambda-ray-") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            yield LocalRay(f"http://127.0.0.1:{dashboard_port}", process, Path(output.name))
        finally:
            process.terminate()
            process.wait()
