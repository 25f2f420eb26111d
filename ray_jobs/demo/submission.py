"""A job on a Ray that has a job server: submitted, followed to its end, stopped by Ctrl-C.

python -m ray_jobs.demo.submission http://127.0.0.1:8265 python -m ray_jobs.pipeline --recipe demo

submits from the current directory, like `ray job submit --working-dir .`, without its chatter.
"""

import asyncio
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable

from ray.job_submission import JobStatus, JobSubmissionClient

from data.command_line import run_main
from data.errors import InputError, JobError

START_TIMEOUT_S = 90.0
"""A fresh Ray answers in some ten seconds, its job agent some seconds later."""

_CHATTY_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
    "ray._private.runtime_env.working_dir",
)
"""They tell how the working directory is packed and how the connection ends."""


def connect(address: str, is_alive: Callable[[], bool]) -> JobSubmissionClient:
    """The client of the job server at `address` once it answers.

    Raises:
        JobError: `is_alive` says that Ray has ended, or it did not answer in START_TIMEOUT_S.
    """
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while is_alive() and time.monotonic() < deadline_s:
        try:
            client = JobSubmissionClient(address)
        except ConnectionError:
            time.sleep(0.5)
        else:
            for name in _CHATTY_LOGGERS:
                logging.getLogger(name).setLevel(logging.ERROR)
            return client
    raise JobError(f"no job server answers at {address}")


def submit(client: JobSubmissionClient, entrypoint: str, working_dir: str) -> str:
    """Submit a job from `working_dir`; waits for a Ray that has only just started.

    Raises:
        JobError: the job server did not take it within START_TIMEOUT_S.
    """
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            return client.submit_job(
                entrypoint=entrypoint, runtime_env={"working_dir": working_dir}
            )
        except RuntimeError as error:  # the node's agent answers some seconds after the dashboard
            if time.monotonic() > deadline_s:
                reason = str(error).strip().splitlines()[-1]
                raise JobError(f"Ray's job server takes no job: {reason}") from error
            time.sleep(0.5)


def follow(client: JobSubmissionClient, job_id: str) -> None:
    """Show a job's output until it ends; Ctrl-C stops the job.

    Raises:
        InputError: the job ended with the user's mistake (its line is already shown).
        JobError: it failed otherwise.
    """
    try:
        asyncio.run(_tail(client, job_id))
    except KeyboardInterrupt:
        sys.stdout.write("\nstopping the job ...\n")
        client.stop_job(job_id)
        raise
    info = client.get_job_info(job_id)
    if info.status != JobStatus.SUCCEEDED:
        kind = InputError if info.driver_exit_code == 2 else JobError
        raise kind(f"the job {job_id} ended as {info.status.value}; its output above says why")


async def _tail(client: JobSubmissionClient, job_id: str) -> None:
    async for text in client.tail_job_logs(job_id):
        for line in text.splitlines():
            if not _is_noise(line):
                sys.stdout.write(line + "\n")
                sys.stdout.flush()


def _is_noise(line: str) -> bool:
    """Ray's own chatter about connecting, which says nothing about the job."""
    return any(
        mark in line
        for mark in (
            "INFO worker.py:",
            "INFO job_manager.py:",
            "INFO sdk.py:",
            "Running entrypoint for job",
        )
    )


def main(argv: list[str]) -> None:
    """Submit and follow; see the module's docstring."""
    if len(argv) < 2:
        raise InputError("usage: python -m ray_jobs.demo.submission ADDRESS COMMAND...")
    client = connect(argv[0], lambda: True)
    job_id = submit(client, shlex.join(argv[1:]), os.getcwd())
    sys.stdout.write(f"submitted {job_id} through Ray's job API\n")
    sys.stdout.flush()
    follow(client, job_id)


if __name__ == "__main__":
    run_main(main)
