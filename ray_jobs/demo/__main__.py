"""`make demo`: the whole product on this machine, with no account, no GPU and no download.

A simulated Lambda Cloud, a cluster brought up on its machines, the main job on an autoscaled
worker, the verified results fetched, everything torn down, and the bill. Where no machines can
be made it says why and submits the same job to a local Ray. `--local` asks for that.
"""

import os
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.command_line import run_main
from data.errors import InputError, JobError
from ray_jobs import pipeline
from ray_jobs.demo.local_ray import local_ray
from ray_jobs.demo.simulated_cluster import (
    SHARED,
    SimulatedCluster,
    simulated_cluster,
    why_no_machines,
)

REPOSITORY = Path(__file__).resolve().parents[2]
RUNS = REPOSITORY / "runs"
PIPELINE = ("-m", "ray_jobs.pipeline")
RESULTS = "results"
"""Below `SHARED`; next to it lie texts, activations and checkpoints."""


def main(argv: list[str]) -> None:
    """Run the demo; further arguments go to the pipeline as they are."""
    started_s = time.monotonic()
    local = "--local" in argv
    argv = ["--recipe", "demo", *(word for word in argv if word != "--local")]
    configs, _ = pipeline.parse(argv)  # a mistake is reported before anything starts
    _say("raylambda demo: SAE and PII detector on Ray Train, on this machine")
    # This Ray's own token: nobody else on the machine can submit to it or read from it. Set
    # before the first import of Ray, which reads the mode then.
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    own_place = configs[3].output_dir != pipeline.recipe("demo")[3].output_dir
    reason = "--local" if local else "--output-dir" if own_place else why_no_machines()
    if reason is None:
        _on_simulated_machines(argv)
    else:
        _say(f"on a local Ray, not on simulated machines: {reason}")
        _on_local_ray([*argv, "--output-dir", _absolute(configs[3].output_dir, own_place)])
    _say(f"all of it took {time.monotonic() - started_s:.0f} s")


def _absolute(output_dir: str, own_place: bool) -> str:
    # The job runs in a copy of this directory, where a relative path would lead elsewhere.
    if not own_place:
        return str(RUNS / "demo")
    return output_dir if "://" in output_dir else os.path.abspath(output_dir)


def _on_local_ray(arguments: list[str]) -> None:
    from ray_jobs.demo import submission

    _say("starting Ray ...")
    with local_ray() as ray:
        try:
            client = submission.connect(ray.address, ray.is_alive)
        except JobError as error:
            raise JobError(f"{error}; Ray said: {ray.last_words()}") from error
        entrypoint = shlex.join([sys.executable, *PIPELINE, *arguments])
        job_id = submission.submit(client, entrypoint, str(REPOSITORY))
        _say(f"submitted {job_id} through Ray's job API")
        submission.follow(client, job_id)


def _on_simulated_machines(arguments: list[str]) -> None:
    folder = RUNS / "cloud"
    shutil.rmtree(folder / "machines", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "commands.log"
    log.unlink(missing_ok=True)
    _say(f"starting a simulated Lambda Cloud ... (its commands and their output: {log})")
    with simulated_cluster(folder, log) as cluster:
        _say("ray up    ...")
        cluster.ray("up", str(cluster.yaml), "--yes")
        with _ended(cluster):
            _submit(cluster, arguments)
            _fetch(cluster)


@contextmanager
def _ended(cluster: SimulatedCluster) -> Iterator[None]:
    """End the cluster after the block and show the bill, however the block ends. An error of the
    block's own is the one that is raised."""
    try:
        yield
    except BaseException:
        try:
            _end(cluster)
        except (JobError, OSError) as error:
            _say(f"          {error}")
        raise
    _end(cluster)


def _end(cluster: SimulatedCluster) -> None:
    _say("ray down  ...")
    try:
        cluster.ray("down", str(cluster.yaml), "--yes")
    finally:
        alive = _bill(cluster)
    if alive:
        raise JobError(f"{alive} machines are still running")


def _submit(cluster: SimulatedCluster, arguments: list[str]) -> None:
    places = ["--output-dir", f"{SHARED}/{RESULTS}", "--storage", SHARED]
    with cluster.dashboard() as address:
        command = [
            "-m",
            "ray_jobs.demo.submission",
            address,
            "python",
            *PIPELINE,
            *arguments,
            *places,
        ]
        done = subprocess.run(
            [*cluster.cloud.prefix, sys.executable, *command],
            cwd=REPOSITORY,
            env=cluster.environment | {"RAY_AUTH_MODE": "token"},
            check=False,
        )
    if done.returncode:
        kind = InputError if done.returncode == 2 else JobError
        raise kind("the job did not end well; its output above says why")


def _fetch(cluster: SimulatedCluster) -> None:
    """Bring the results to `runs/demo` and check every one against the manifest."""
    from data.storage import Store
    from ray_jobs.results import run_directory

    target = RUNS / "demo"
    target.mkdir(parents=True, exist_ok=True)
    cluster.ray("rsync-down", str(cluster.yaml), f"{SHARED}/{RESULTS}/", f"{target}/")
    files = run_directory.verify(Store.open(str(target)))
    _say(f"fetched   {files} files to {target}, each with the sha256 of the manifest")
    _say(f"look at   {target}/report.html")


def _bill(cluster: SimulatedCluster) -> int:
    """Show what it has cost, and return how many machines still run."""
    counts = cluster.cloud.control("invariants")
    _say(
        f"bill      ${counts['spend_cents'] / 100:.2f} at Lambda's prices for {counts['instances']}"
        f" machines; {counts['alive']} instances running"
    )
    return counts["alive"]


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run_main(main)
