"""Real machines, as far as they can be tested without making one."""

import ctypes
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoscaler.simulator import CloudConfig, InstanceFault, Simulation
from autoscaler.simulator.cloud.instances import LaunchSpec
from autoscaler.simulator.machines import image
from autoscaler.simulator.machines.machines import Address, Blueprint
from autoscaler.simulator.machines.network import is_alive, mark_of, own_mark
from autoscaler.simulator.machines.probe import choose, why_not


class Slow:
    """Machines that answer once their id is in `up`."""

    def __init__(self) -> None:
        self.made: list[Blueprint] = []
        self.up: set[str] = set()

    def start(self, blueprint: Blueprint) -> None:
        self.made.append(blueprint)

    def stop(self, instance_id: str) -> None:
        self.up.discard(instance_id)

    def address(self, instance_id: str) -> Address | None:
        return Address("192.0.2.7", "192.0.2.7") if instance_id in self.up else None


def test_a_blueprint_holds_what_the_launch_asked_for_and_its_faults() -> None:
    machines = Slow()
    sim = Simulation(CloudConfig(), machines=machines)
    account = sim.cloud.account
    account.add_ssh_key("mine", "ssh-ed25519 AAAA me")
    fs = account.create_file_system("corpus", "us-east-1", 0.0)
    sim.add_fault(InstanceFault("dead_cuda"))
    sim.add_fault(InstanceFault("missing_gpu"))
    spec = LaunchSpec(
        "gpu_8x_h100_sxm5", "us-east-1", "mine", hostname="trainer", file_system_names=("corpus",)
    )
    with sim.cloud.lock:
        sim.cloud.commit(spec)
    (made,) = machines.made
    assert (made.gpus, made.cuda_starts, made.hostname) == (7, False, "trainer")
    assert made.public_keys == ("ssh-ed25519 AAAA me",)
    assert made.mounts == (("/lambda/nfs/corpus", fs.id),)


def test_active_no_sooner_than_the_machine_answers_also_after_a_restart() -> None:
    machines = Slow()
    config = CloudConfig(boot_s={"cpu": (5, 5), "single": (5, 5), "multi": (5, 5)}, restart_s=5)
    sim = Simulation(config, machines=machines)
    sim.cloud.account.add_ssh_key("mine", "ssh-ed25519 AAAA me")
    with sim.cloud.lock:
        made = sim.cloud.commit(LaunchSpec("cpu_4x_general", "us-east-1", "mine"))
    sim.advance(30)
    assert made.status == "booting" and made.address is None
    machines.up.add(made.id)
    sim.advance(2)
    assert made.status == "active" and made.address == Address("192.0.2.7", "192.0.2.7")
    with sim.cloud.lock:
        sim.cloud.restart([made.id])
    sim.advance(30)
    assert made.status == "booting"
    machines.up.add(made.id)
    sim.advance(2)
    assert made.status == "active"


def blueprint(gpus: int) -> Blueprint:
    return Blueprint("0123456789", 1, None, 4, 16, gpus, "H100", True, ("ssh-ed25519 AAAA",), ())


def test_the_tree_of_a_machine(tmp_path: Path) -> None:
    image.write_tree(tmp_path, blueprint(2), "box", "10.1.2.3", as_root=False)
    assert (tmp_path / "etc/hostname").read_text() == "box\n"
    passwd = (tmp_path / "etc/passwd").read_text().splitlines()
    assert [line for line in passwd if line.startswith("ubuntu:")] == [
        f"ubuntu:x:{image.USER_ID}:{image.USER_ID}::/home/ubuntu:/bin/bash"
    ]
    keys = tmp_path / "home/ubuntu/.ssh/authorized_keys"
    assert keys.read_text() == "ssh-ed25519 AAAA\n"
    assert keys.parent.stat().st_mode & 0o777 == 0o700
    listed = subprocess.run(
        [tmp_path / "usr/bin/nvidia-smi", "-L"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(listed) == 2 and listed[1].startswith("GPU 1: NVIDIA H100 (UUID: ")
    assert not (tmp_path / "etc/sudoers.d").exists()


def test_a_machine_without_gpus_has_no_driver(tmp_path: Path) -> None:
    image.write_tree(tmp_path, blueprint(0), "box", "10.1.2.3", as_root=False)
    assert not list(tmp_path.rglob("nvidia-smi")) and not list(tmp_path.rglob("libcuda*"))


@pytest.mark.parametrize(("starts", "code"), [(True, 0), (False, 802)])
def test_the_driver_answers_through_the_dynamic_linker(
    tmp_path: Path, starts: bool, code: int
) -> None:
    made = dataclasses.replace(blueprint(8), cuda_starts=starts)
    image.write_tree(tmp_path, made, "box", "10.1.2.3", as_root=False)
    (library,) = tmp_path.rglob("libcuda.so.1")
    cuda = ctypes.CDLL(str(library))
    count, version = ctypes.c_int(-1), ctypes.c_int(-1)
    assert cuda.cuInit(0) == code
    assert cuda.cuDeviceGetCount(ctypes.byref(count)) == code and count.value == 8
    assert cuda.cuDriverGetVersion(ctypes.byref(version)) == code and version.value == 12040
    with pytest.raises(AttributeError, match="undefined symbol"):
        cuda.cuCtxCreate  # noqa: B018


def test_a_mark_is_of_one_process_only() -> None:
    assert is_alive(own_mark())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        mark = mark_of(child.pid)
        assert mark is not None and is_alive(mark)
    assert not is_alive(mark)
    pid, start = own_mark().split(".")
    assert not is_alive(f"{pid}.{int(start) + 1}")  # the same number, another process
    assert not is_alive("") and not is_alive("nonsense")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may")
def test_root_is_asked_for() -> None:
    assert why_not("root") == "not root"


def test_the_choice_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("none") == ("none", "")
    reasons = {"root": "not root", "user": "the kernel refuses namespaces (nope)"}
    monkeypatch.setattr("autoscaler.simulator.machines.probe.why_not", reasons.get)
    assert choose("auto") == (
        "none",
        "as root: not root; as user: the kernel refuses namespaces (nope)",
    )
    assert choose("user") == ("none", "as user: the kernel refuses namespaces (nope)")
    reasons["user"] = None
    assert choose("auto") == ("user", "")
