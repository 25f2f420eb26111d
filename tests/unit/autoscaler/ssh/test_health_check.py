"""The check of a new machine: its program in a process of its own, as on the machine."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from autoscaler.errors import ProtocolError
from autoscaler.ssh import health_check_program
from autoscaler.ssh.health_check import HealthCheck, own_address, read_verdict


def machine(folder: Path, listed: int) -> dict[str, str]:
    """A PATH with an nvidia-smi that lists so many GPUs, and a python3 that is this one."""
    tool = folder / "nvidia-smi"
    lines = "".join(f"echo 'GPU {n}: NVIDIA H100 (UUID: GPU-{n})'\n" for n in range(listed))
    tool.write_text(f"#!/bin/sh\n{lines}")
    tool.chmod(0o755)
    (folder / "python3").symlink_to(sys.executable)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def verdict(check: HealthCheck, env: dict[str, str]) -> str | None:
    done = subprocess.run(
        ["bash", "-c", check.command()], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return read_verdict(done.stdout)


@pytest.fixture
def at_once(monkeypatch):
    """CUDA gets no second chance: nothing of this machine becomes better by waiting."""
    monkeypatch.setattr("autoscaler.ssh.health_check.CUDA_WAIT_S", 0)


def test_a_machine_without_gpus_passes(tmp_path):
    assert verdict(HealthCheck(gpus=0), machine(tmp_path, 0)) is None


def test_missing_gpus_are_counted(tmp_path, at_once):
    assert verdict(HealthCheck(gpus=8), machine(tmp_path, 7)) == "7 of 8 GPUs are there"


def test_no_driver_at_all(tmp_path, at_once):
    env = machine(tmp_path, 0)
    (tmp_path / "nvidia-smi").unlink()
    problem = verdict(HealthCheck(gpus=1), env)
    assert problem in ("nvidia-smi does not run: FileNotFoundError", "0 of 1 GPUs are there")


def test_dead_cuda_is_found_behind_a_good_count(tmp_path, at_once):
    """There is no libcuda here: as dead as can be."""
    problem = verdict(HealthCheck(gpus=1), machine(tmp_path, 1))
    assert problem is not None and problem.startswith("CUDA does not start: ")


@pytest.mark.parametrize(
    ("printed", "problem"),
    [
        ("0 8", None),
        ("802 0", "CUDA does not start: error 802"),
        ("0 7", "CUDA sees 7 of 8 GPUs"),
        ("", "CUDA does not start: no answer"),
    ],
)
def test_what_cuda_says_is_understood(monkeypatch, printed, problem):
    monkeypatch.setattr(health_check_program, "CUDA_PROBE", f"print({printed!r})")
    assert health_check_program.cuda_problem(8) == problem


def test_a_cuda_that_hangs(monkeypatch):
    monkeypatch.setattr(health_check_program, "CUDA_PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(health_check_program, "PROBE_TIMEOUT_S", 0.5)
    assert health_check_program.cuda_problem(1) == "CUDA does not start: cuInit hangs"


def test_a_machine_that_becomes_ready_in_time_passes(monkeypatch):
    answers = ["0 of 1 GPUs are there", "CUDA does not start: error 802", None]
    monkeypatch.setattr(health_check_program, "gpu_count_problem", lambda gpus: answers.pop(0))
    monkeypatch.setattr(health_check_program, "cuda_problem", lambda gpus: None)
    monkeypatch.setattr(health_check_program.time, "sleep", lambda seconds: None)
    wanted = {"gpus": 1, "head_ip": None, "cuda_wait_s": 90}
    assert health_check_program.problem_of(wanted) is None


def test_a_head_that_listens_or_refuses_is_reached(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert health_check_program.head_problem("127.0.0.1", [port], 0) is None
    assert health_check_program.head_problem("127.0.0.1", [port], 0) is None


def test_a_head_that_does_not_answer(monkeypatch):
    now_s = [0.0]

    def nothing(*args, timeout):
        now_s[0] += timeout
        raise TimeoutError

    monkeypatch.setattr(health_check_program.socket, "create_connection", nothing)
    monkeypatch.setattr(health_check_program.time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(health_check_program.time, "sleep", lambda seconds: None)
    problem = health_check_program.head_problem("10.0.0.1", [6379, 22], 40)
    assert problem == "the head does not answer on its private address 10.0.0.1"
    assert now_s[0] == 42.0


def test_a_machine_knows_the_address_by_which_it_reaches_another():
    assert own_address("127.0.0.1") == "127.0.0.1"
    assert own_address("255.255.255.255") is None  # nobody's


def test_the_verdict_is_found_among_a_terminals_noise():
    line = json.dumps({"problem": "7 of 8\nGPUs"})
    noisy = f"Welcome to Ubuntu\r\nraylambda-health-check {line}\r\nlogout\r\n"
    assert read_verdict(noisy) == "7 of 8 GPUs"
    assert read_verdict('raylambda-health-check {"problem": null}\n') is None


@pytest.mark.parametrize(
    "output", ["", "bash: python3: not found", "raylambda-health-check {}", "{"]
)
def test_no_verdict_is_no_judgement(output):
    with pytest.raises(ProtocolError):
        read_verdict(output)
