"""The health check's program: its source is sent to a new machine, whose own Python 3 runs it.

It imports the standard library only, prints one line, `raylambda-health-check {"problem": ...}`,
and always exits with 0: ssh's own failures must not look like a verdict.
"""

from __future__ import annotations

import base64
import errno
import json
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

CUDA_PROBE = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
code = cuda.cuInit(0)
count = ctypes.c_int(0)
if code == 0:
    code = cuda.cuDeviceGetCount(ctypes.byref(count))
print(code, count.value)
"""
PROBE_TIMEOUT_S = 30


def gpu_count_problem(gpus: int) -> str | None:
    """None if nvidia-smi lists so many GPUs."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PROBE_TIMEOUT_S,
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi does not run: {type(error).__name__}"
    count = sum(line.startswith("GPU ") for line in listed.splitlines())
    return None if count == gpus else f"{count} of {gpus} GPUs are there"


def cuda_problem(gpus: int) -> str | None:
    """None if CUDA initialises with so many devices. In a child: a dead driver may hang."""
    try:
        probe = subprocess.run(
            [sys.executable, "-c", CUDA_PROBE],
            capture_output=True,
            timeout=PROBE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return "CUDA does not start: cuInit hangs"
    try:
        code, count = (int(word) for word in probe.stdout.split())
    except ValueError:
        last = (probe.stderr.decode(errors="replace").strip().splitlines() or ["no answer"])[-1]
        return f"CUDA does not start: {last}"
    if code != 0:
        return f"CUDA does not start: error {code}"
    return None if count == gpus else f"CUDA sees {count} of {gpus} GPUs"


def head_problem(ip: str, ports: Sequence[int], wait_s: float) -> str | None:
    """None if the head answers on its private address; a refused connection is an answer."""
    deadline_s = time.monotonic() + wait_s
    while True:
        for port in ports:
            try:
                socket.create_connection((ip, port), timeout=3).close()
                return None
            except OSError as error:
                if error.errno == errno.ECONNREFUSED:
                    return None
        if time.monotonic() >= deadline_s:
            return f"the head does not answer on its private address {ip}"
        time.sleep(2)


def problem_of(wanted: dict[str, Any]) -> str | None:
    """What is wrong with this machine, or None."""
    gpus = int(wanted["gpus"])
    if gpus:
        deadline_s = time.monotonic() + float(wanted["cuda_wait_s"])
        while True:
            problem = gpu_count_problem(gpus) or cuda_problem(gpus)
            if problem is None:
                break
            if time.monotonic() >= deadline_s:
                return problem
            time.sleep(5)
    if wanted["head_ip"]:
        return head_problem(wanted["head_ip"], wanted["head_ports"], float(wanted["head_wait_s"]))
    return None


if __name__ == "__main__":
    found = problem_of(json.loads(base64.b64decode(sys.argv[1])))
    sys.stdout.write("raylambda-health-check " + json.dumps({"problem": found}) + "\n")
