"""A job as its users start it: submitted to a Ray, one of its processes killed on the way."""

import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

from ray_jobs.demo import submission
from ray_jobs.demo.local_ray import local_ray

REPOSITORY = Path(__file__).resolve().parents[2]
PROCESS = re.compile(r"worker (\d+) of 2 runs as process (\d+)")


Victim = Callable[[str], int | None]
"""The process to kill, once the output up to now says that it is time."""


def rank_1_after(pattern: str) -> Victim:
    """Of a training by two workers: the second, once the output matches."""
    return lambda text: int(dict(PROCESS.findall(text))["1"]) if re.search(pattern, text) else None


def run_and_kill_one(
    module: str,
    flags: Sequence[str],
    victim: Victim,
    timeout_s: float,
    show: Callable[[str], None] = lambda _: None,
) -> str:
    """The output of a whole `python -m module flags` on a Ray of its own, which inherits this
    process's environment; one of its processes is killed.

    Raises:
        AssertionError: it did not succeed, or not in time; with its output.
    """
    with local_ray() as ray:
        client = submission.connect(ray.address, ray.is_alive)
        entrypoint = shlex.join([sys.executable, "-m", module, *flags])
        job = submission.submit(client, entrypoint, str(REPOSITORY))
        deadline_s = time.monotonic() + timeout_s
        killed, shown = False, 0
        while not client.get_job_status(job).is_terminal():
            text = client.get_job_logs(job)
            assert time.monotonic() < deadline_s, text[-5000:]
            show(text[shown:])
            shown = len(text)
            if not killed and (process := victim(text)) is not None:
                os.kill(process, signal.SIGKILL)
                killed = True
            time.sleep(0.2)
        return _succeeded(client, job, killed)


def _succeeded(client: JobSubmissionClient, job: str, killed: bool) -> str:
    text = client.get_job_logs(job)
    assert client.get_job_status(job) == JobStatus.SUCCEEDED, text[-5000:]
    assert killed, text[-5000:]
    return text
