"""A WaltzRL training as its users start it: submitted as a job, its storage on an S3 server, one
of its workers killed on the way."""

import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

from ray_jobs import submission
from ray_jobs.local_ray import local_ray

REPOSITORY = Path(__file__).resolve().parents[2]
PROCESS = re.compile(r"worker (\d+) of 2 runs as process (\d+)")


def run_and_kill_one(
    flags: Sequence[str], kill_after: str, timeout_s: float, show: Callable[[str], None]
) -> str:
    """The output of a whole run of two workers on a Ray of its own, which inherits this process's
    environment; a worker is killed once the output matches `kill_after`.

    Raises:
        AssertionError: it did not succeed, or not in time; with its output.
    """
    with local_ray() as ray:
        client = submission.connect(ray.address, ray.is_alive)
        entrypoint = shlex.join([sys.executable, "-m", "ray_jobs.waltzrl.train", *flags])
        job = submission.submit(client, entrypoint, str(REPOSITORY))
        deadline_s = time.monotonic() + timeout_s
        killed, shown = False, 0
        while not client.get_job_status(job).is_terminal():
            text = client.get_job_logs(job)
            assert time.monotonic() < deadline_s, text[-5000:]
            show(text[shown:])
            shown = len(text)
            if not killed and re.search(kill_after, text):
                os.kill(int(dict(PROCESS.findall(text))["1"]), signal.SIGKILL)
                killed = True
            time.sleep(0.2)
        return _succeeded(client, job, killed)


def _succeeded(client: JobSubmissionClient, job: str, killed: bool) -> str:
    text = client.get_job_logs(job)
    assert client.get_job_status(job) == JobStatus.SUCCEEDED, text[-5000:]
    assert killed, text[-5000:]
    return text
