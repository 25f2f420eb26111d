"""A laptop for tests: a home of its own, the API key in the environment, and Ray's commands."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cloud.machines import KEY
from tests.storage.ceph import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

QUICK_DEATH = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_raylet_rpc_server_reconnect_timeout_base_s": "1",
    "RAY_raylet_rpc_server_reconnect_timeout_max_s": "2",
    "RAY_core_worker_rpc_server_reconnect_timeout_base_s": "1",
    "RAY_core_worker_rpc_server_reconnect_timeout_max_s": "2",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}
"""Ray's own settings for its head, so that a dead machine is missed after seconds."""

QUICK_HEALTH_CHECK = """
import pathlib
exec(pathlib.Path("~/raylambda/cluster/python/sitecustomize.py").expanduser().read_text())
import sys
if "autoscaler" in sys.modules:  # in Ray's monitor
    import autoscaler.ssh.health_check
    autoscaler.ssh.health_check.CUDA_WAIT_S = 0
"""
"""What the head's Python does at its start: a CUDA that does not start gets no second chance."""


class Laptop:
    """`run` and `ray` run commands in the repository, as a person would."""

    def __init__(self, home: Path, api_url: str, environment: Mapping[str, str]) -> None:
        self.home = home
        (home / "tmp").mkdir(parents=True)
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_", "LAMBDA_"))
        }
        self.environment = {
            **kept,
            "HOME": str(home),
            "TMPDIR": str(home / "tmp"),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "LAMBDA_API_KEY": KEY,
            "LAMBDA_API_URL": api_url,
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONUNBUFFERED": "1",
            **environment,
        }
        self.environment.pop("PYTHONPATH", None)
        self._began_s = time.monotonic()

    def secrets(self) -> list[str]:
        """The API key, and the cluster's token from the moment at which there is one."""
        token = self.home / ".ray" / "auth_token"
        return [KEY, *([token.read_text()] if token.exists() else [])]

    def note(self, text: str) -> None:
        """Shows when a step was reached (pytest -s)."""
        print(f"{time.monotonic() - self._began_s:7.1f} s  {text}", flush=True)

    def run(
        self, *command: str, check: bool = True, timeout_s: float = 240.0, typed: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        """`typed` is the command's whole input."""
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=REPOSITORY,
            input=typed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout[-6000:]}"
        return done

    def raylambda(self, *words: str) -> str:
        """The output of one of our own commands."""
        return self.run(sys.executable, "-m", "autoscaler.cli", *words).stdout

    def version(self) -> str:
        """What this side says of its code."""
        return self.raylambda("version").strip()

    def ray(self, *words: str, **options: Any) -> str:
        """The output of one of Ray's commands; options as of `run`."""
        return self.run(str(BIN / "ray"), *words, **options).stdout

    def write_cluster(self, name: str, **changes: Any) -> str:
        """`cluster/lambda.yaml` under another name, with a short idle time and `changes`."""
        cluster = yaml.safe_load((REPOSITORY / "cluster" / "lambda.yaml").read_text())
        cluster.update(cluster_name=name, idle_timeout_minutes=0.2)
        cluster["provider"]["regions"] = ["us-east-1"]
        hook = self.home / "sitecustomize.py"
        hook.write_text(QUICK_HEALTH_CHECK)
        settings = QUICK_DEATH | {"PYTHONPATH": "$HOME/hook:$PYTHONPATH"}
        exports = " ".join(f"{k}={v}" for k, v in settings.items())
        cluster["head_start_ray_commands"] = [
            f"export {exports}; {c}" if "ray start" in c else c
            for c in cluster["head_start_ray_commands"]
        ]
        cluster["file_mounts"] |= {"~/hook/sitecustomize.py": str(hook)}
        cluster["file_mounts"] |= changes.pop("file_mounts", {})
        cluster |= changes
        path = self.home / f"{name}.yaml"
        path.write_text(yaml.safe_dump(cluster))
        return str(path)

    @contextmanager
    def dashboard(self, cluster: str) -> Iterator[str]:
        """`ray dashboard`, left open; its address on the laptop."""
        port = free_port()
        with (self.home / "dashboard.out").open("wb") as output:
            process = subprocess.Popen(
                [str(BIN / "ray"), "dashboard", cluster, "--port", str(port)],
                env=self.environment,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield f"http://localhost:{port}"
        finally:
            os.killpg(process.pid, 15)
            process.wait(30)

    def token_variables(self) -> dict[str, str]:
        """What `ray dashboard` said to export before a job is submitted."""
        said = (self.home / "dashboard.out").read_text()
        found = re.search(r"export (RAY_AUTH_MODE=\S+ RAY_AUTH_TOKEN_PATH=\S+)$", said, re.M)
        assert found, said
        return dict(word.split("=", 1) for word in shlex.split(found[1]))


def job_id(output: str) -> str:
    """Of what `ray job submit` printed."""
    found = re.search(r"Job '(\S+)' submitted", output)
    assert found, output
    return found[1]
