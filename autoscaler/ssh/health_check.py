"""The health check of a new machine, made over ssh, before Ray or anything else runs on it.

New machines have come up as active with GPUs missing, and with a CUDA that does not start
(its fabric manager not ready); Ray would take them as whole and every task on them would fail.
The check is one small program that needs nothing but the machine's own Python.
"""

import base64
import inspect
import json
import re
import socket
from dataclasses import dataclass

from autoscaler.errors import ProtocolError
from autoscaler.ssh import health_check_program

CUDA_WAIT_S = 90
"""A new 8-GPU machine's fabric manager may need a minute after the machine is reachable."""
HEAD_PORTS = (6379, 22)
HEAD_WAIT_S = 40
"""The private network of a new machine may need some seconds."""
_VERDICT = re.compile(r"raylambda-health-check (\{.*\})")


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """What a machine must have. `head_ip` is the head's private address, None for the head."""

    gpus: int
    head_ip: str | None = None

    def command(self) -> str:
        """A shell command that prints the verdict and exits with 0 whatever it is."""
        program = base64.b64encode(inspect.getsource(health_check_program).encode()).decode()
        wanted = json.dumps(
            {
                "gpus": self.gpus,
                "head_ip": self.head_ip,
                "head_ports": HEAD_PORTS,
                "head_wait_s": HEAD_WAIT_S,
                "cuda_wait_s": CUDA_WAIT_S,
            }
        )
        argument = base64.b64encode(wanted.encode()).decode()
        return f"echo {program} | base64 -d | python3 - {argument}"


def own_address(towards: str) -> str | None:
    """This machine's address on the network on which it reaches another; None without a way."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((towards, HEAD_PORTS[-1]))  # a datagram socket: nothing is sent
            return str(probe.getsockname()[0])
    except OSError:
        return None


def read_verdict(output: str) -> str | None:
    """Why the machine is unhealthy, in one line; None if it is healthy.

    Raises ProtocolError when the output holds no verdict: then nothing is known.
    """
    found = _VERDICT.findall(output)
    try:
        problem = json.loads(found[-1])["problem"]
    except (IndexError, ValueError, KeyError, TypeError):
        raise ProtocolError("the machine's check gave no verdict") from None
    return None if problem is None else " ".join(str(problem).split())[:200]
