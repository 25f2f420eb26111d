"""Real machines of the simulated cloud: what they are, and that none outlives its supervisor."""

import http.server
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoscaler.simulator.machines.network import bridge_names
from autoscaler.ssh.health_check import HealthCheck, read_verdict
from tests.cloud.machines import (
    CloudProcess,
    process_list_watched,
    processes_with,
    require_machines,
    wait_for,
)

pytestmark = pytest.mark.cloud

CU_INIT = "python -c 'import ctypes; print(ctypes.CDLL(\"libcuda.so.1\").cuInit(0))'"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudProcess]:
    require_machines("root")
    folder = tmp_path_factory.mktemp("cloud")
    flags = ("--memory-gib", "1", "--disk-gib", "2", "--run-dir", str(folder / "run"))
    with CloudProcess("root", folder, *flags) as running:
        yield running


def test_a_machine_is_what_lambda_gives(cloud: CloudProcess) -> None:
    ip = cloud.active(cloud.launch("gpu_8x_h100_sxm5", hostname="trainer-1"))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert cloud.ssh(ip, "whoami; hostname").stdout.split() == ["ubuntu", "trainer-1"]
    assert cloud.ssh(ip, "sudo -n whoami").stdout == "root\n"
    assert cloud.ssh(ip, "python -V").stdout.startswith(f"Python {version}.")
    # Ray's commands come through a login shell.
    assert cloud.ssh(ip, "bash --login -c 'python -c \"import ray\"'").returncode == 0
    listed = cloud.ssh(ip, "nvidia-smi -L").stdout.splitlines()
    assert len(listed) == 8 and all("H100" in line for line in listed)
    assert cloud.ssh(ip, CU_INIT).stdout == "0\n"
    assert cloud.ssh(ip, "ps -e -o comm=").stdout.split()[0] == "sshd"


def test_a_machine_without_gpu_has_no_driver(cloud: CloudProcess) -> None:
    ip = cloud.active(cloud.launch("cpu_4x_general"))
    assert cloud.ssh(ip, "nvidia-smi -L", check=False).returncode == 127
    assert cloud.ssh(ip, CU_INIT, check=False).returncode != 0


def test_broken_gpus(cloud: CloudProcess) -> None:
    cloud.call("POST", "/sim/faults", {"kind": "dead_cuda"})
    dead = cloud.active(cloud.launch("gpu_1x_h100_pcie"))
    assert len(cloud.ssh(dead, "nvidia-smi -L").stdout.splitlines()) == 1
    assert cloud.ssh(dead, CU_INIT).stdout == "802\n"
    cloud.call("POST", "/sim/faults", {"kind": "missing_gpu"})
    short = cloud.active(cloud.launch("gpu_2x_h100_sxm5"))
    assert len(cloud.ssh(short, "nvidia-smi -L").stdout.splitlines()) == 1


def test_the_providers_gate_on_real_machines(
    cloud: CloudProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the provider sends it over ssh. What is wrong here does not mend itself by waiting."""
    monkeypatch.setattr("autoscaler.ssh.health_check.CUDA_WAIT_S", 0)
    monkeypatch.setattr("autoscaler.ssh.health_check.HEAD_WAIT_S", 0)
    cloud.call("POST", "/sim/faults", {"kind": "dead_cuda"})
    dead, good = (cloud.active(cloud.launch("gpu_1x_a10")) for _ in range(2))

    def verdict(ip: str, gpus: int, head_ip: str) -> str | None:
        return read_verdict(cloud.ssh(ip, HealthCheck(gpus, head_ip).command()).stdout)

    assert verdict(good, 1, dead) is None
    assert verdict(dead, 1, good) == "CUDA does not start: error 802"
    assert verdict(good, 2, dead) == "1 of 2 GPUs are there"
    nobody = f"{good.rpartition('.')[0]}.250"
    lost = f"the head does not answer on its private address {nobody}"
    assert verdict(good, 1, nobody) == lost


def test_machines_reach_each_other_and_share_a_file_system(cloud: CloudProcess) -> None:
    cloud.call("POST", "/filesystems", {"name": "corpus", "region": "us-east-1"})
    launched = [cloud.launch("gpu_1x_a10", file_system_names=["corpus"]) for _ in range(2)]
    first, second = map(cloud.active, launched)
    assert first != second
    cloud.ssh(first, "echo shared > /lambda/nfs/corpus/note; echo own > ~/note")
    assert cloud.ssh(second, "cat /lambda/nfs/corpus/note").stdout == "shared\n"
    assert cloud.ssh(second, "cat ~/note", check=False).returncode != 0
    banner = cloud.ssh(second, f"head -c 7 < /dev/tcp/{first}/22").stdout
    assert banner == "SSH-2.0"


def test_the_memory_limit_is_the_machines_own(cloud: CloudProcess) -> None:
    ip = cloud.active(cloud.launch("cpu_4x_general"))
    used = cloud.ssh(ip, "python -c 'print(len(bytearray(300 << 20)))'").stdout
    assert used == f"{300 << 20}\n"
    killed = cloud.ssh(ip, "python -c 'bytearray(1200 << 20)'; echo $?").stdout
    assert killed == f"{128 + signal.SIGKILL}\n"
    # Ray sizes its nodes by what it reads here.
    seen = cloud.ssh(
        ip, "python -c 'import ray._common.utils as u; print(u.get_system_memory())'"
    ).stdout
    assert int(seen) == 1 << 30
    assert cloud.ssh(ip, "df -B1 --output=size ~ | tail -n 1").stdout.strip() == f"{2 << 30}"


def test_machines_reach_the_api_and_a_server_of_this_host(tmp_path: Path) -> None:
    require_machines("root")

    class Hello(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_: object) -> None:
            pass

    fetch = "python -c 'import urllib.request as u; print(u.urlopen(\"{}\").read().decode())'"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            port = server.server_address[1]
            with CloudProcess("root", tmp_path, "--forward", str(port)) as cloud:
                ip = cloud.active(cloud.launch("cpu_4x_general"))
                assert (
                    "now"
                    in json.loads(cloud.ssh(ip, fetch.format(cloud.url + "/sim/clock")).stdout)[
                        "data"
                    ]
                )
                host = cloud.url.removeprefix("http://").partition(":")[0]
                assert cloud.ssh(ip, fetch.format(f"http://{host}:{port}")).stdout == "hello\n"
        finally:
            server.shutdown()


@pytest.mark.parametrize("how", ["terminate", "preempt", "shutdown"])
def test_a_machine_ends_with_its_instance(cloud: CloudProcess, how: str) -> None:
    instance_id = cloud.launch("cpu_4x_general")
    ip = cloud.active(instance_id)
    mark = f"6{uuid.uuid4().int % 10**8:08d}"
    cloud.ssh(ip, f"nohup sleep {mark} > /dev/null 2>&1 &")
    wait_for("the process", lambda: processes_with(mark), 5)  # ssh may be back before it
    if how == "terminate":
        cloud.call("POST", "/instance-operations/terminate", {"instance_ids": [instance_id]})
    elif how == "preempt":
        cloud.call("POST", "/sim/faults", {"kind": "preempt", "instance_id": instance_id})
    else:
        cloud.ssh(ip, "sudo shutdown -h now", check=False)
    wait_for("processes gone", lambda: not processes_with(mark), 10)
    if how == "shutdown":  # a machine that is off still bills
        wait_for(
            "unhealthy",
            lambda: cloud.call("GET", f"/instances/{instance_id}")["status"] == "unhealthy",
        )
        rows = cloud.call("GET", "/sim/ledger")["rows"]
        assert next(r for r in rows if r["id"] == instance_id)["metered_until"] is None


def test_a_restarted_machine_keeps_its_address(cloud: CloudProcess) -> None:
    instance_id = cloud.launch("cpu_4x_general")
    ip = cloud.active(instance_id)
    mark = f"5{uuid.uuid4().int % 10**8:08d}"
    cloud.ssh(ip, f"nohup sleep {mark} > /dev/null 2>&1 &")
    cloud.call("POST", "/instance-operations/restart", {"instance_ids": [instance_id]})
    wait_for("processes gone", lambda: not processes_with(mark), 10)
    assert cloud.active(instance_id) == ip
    assert cloud.ssh(ip, "hostname").stdout == f"ip-{ip.replace('.', '-')}\n"


def test_nothing_outlives_a_killed_supervisor_and_the_next_one_sweeps(tmp_path: Path) -> None:
    require_machines("root")
    folders = [tmp_path / name for name in ("living", "killed", "next")]
    for folder in folders:
        folder.mkdir()
    temporary = {"TMPDIR": str(tmp_path)}
    with CloudProcess("root", folders[0], environment=temporary) as living:
        mark = f"7{uuid.uuid4().int % 10**8:08d}"
        kept = living.active(living.launch("cpu_4x_general"))
        with CloudProcess("root", folders[1], environment=temporary) as killed:
            for ip in [killed.active(killed.launch("cpu_4x_general")) for _ in range(3)]:
                killed.ssh(ip, f"nohup sleep {mark} > /dev/null 2>&1 &")
            wait_for("the processes", lambda: len(processes_with(mark)) >= 3, 5)
            killed.process.kill()
            wait_for("processes gone", lambda: not processes_with(mark), 5)
        left = set(bridge_names())
        assert len(left) >= 2
        with CloudProcess("root", folders[2], environment=temporary):
            swept = left - bridge_names()
            assert len(swept) == 1
            assert not list(Path("/sys/fs/cgroup").glob(f"**/raylambda-sim/{swept.pop()}"))
            assert len(list(tmp_path.glob("raylambda-sim-*"))) == 2
        assert living.ssh(kept, "echo alive").stdout == "alive\n"
    assert not list(tmp_path.glob("raylambda-sim-*"))


def as_a_user() -> tuple[str, ...]:
    """The start of a command that then runs without root, for whom this Python is readable."""
    if os.geteuid() != 0:
        return ()
    opened = (
        "mount -t tmpfs own /mnt && mkdir /mnt/up /mnt/work && chmod 711 /mnt/up && "
        "mount -t overlay own -o lowerdir=/root,upperdir=/mnt/up,workdir=/mnt/work /root && "
        'exec setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs "$@"'
    )
    private = ("unshare", "--mount", "--propagation", "private", "--")
    return (*private, "/bin/sh", "-c", opened, "user")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may write to; pytest's own are for their owner only."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


def why_not_as_a_user() -> str | None:
    asking = "from autoscaler.simulator.machines.probe import why_not; print(why_not('user') or '')"
    done = subprocess.run(
        [*as_a_user(), sys.executable, "-c", asking],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.strip() or (done.stderr.strip() or None)


def test_machines_without_root(tmp_path: Path, open_folder: Path) -> None:
    if reason := why_not_as_a_user():
        pytest.skip(reason)
    own = {"TMPDIR": str(open_folder)}
    with CloudProcess("user", tmp_path, prefix=as_a_user(), environment=own) as cloud:
        assert cloud.lines[1].startswith("machines (user, no memory limit) on ")
        cloud.call("POST", "/filesystems", {"name": "corpus", "region": "us-east-1"})
        launched = [cloud.launch("gpu_1x_a10", file_system_names=["corpus"]) for _ in range(2)]
        first, second = map(cloud.active, launched)
        assert (
            cloud.ssh(first, "whoami; echo shared > /lambda/nfs/corpus/note").stdout == "ubuntu\n"
        )
        assert cloud.ssh(second, "cat /lambda/nfs/corpus/note").stdout == "shared\n"
        assert cloud.ssh(second, f"head -c 7 < /dev/tcp/{first}/22").stdout == "SSH-2.0"
        assert cloud.ssh(second, f"{CU_INIT}; sudo echo may").stdout == "0\nmay\n"
        mark = f"8{uuid.uuid4().int % 10**8:08d}"
        cloud.ssh(second, f"nohup sleep {mark} > /dev/null 2>&1 &")
        wait_for("the process", lambda: processes_with(mark), 5)  # ssh may be back before it
        cloud.process.kill()
        wait_for("processes gone", lambda: not processes_with(mark), 5)


def test_a_secret_in_a_command_line_is_seen() -> None:
    secret = uuid.uuid4().hex
    with pytest.raises(AssertionError, match=secret), process_list_watched(lambda: [secret]):
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.5)", secret], check=True)


def test_machines_that_cannot_be_are_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    from autoscaler.simulator.command import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "autoscaler.simulator.machines.probe._PROGRAMS", {"no-such-program": "no-package"}
        )
        assert main(["--machines", "root"]) == 2
    said = capfd.readouterr().err
    assert said == (
        "--machines root: as root: no-such-program is missing: apt-get install no-package\n"
    )
