"""The simulation over real HTTP, and the command that serves it."""

import base64
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from autoscaler.simulator import CloudConfig, FailNext, ScaledClock, SimulatedCloud
from autoscaler.simulator.cloud.instances import LaunchSpec
from autoscaler.simulator.command import main
from tests.unit.autoscaler.simulator.lambda_contract import Contract

REPO = Path(__file__).resolve().parents[4]
BEARER = {"Authorization": "Bearer sim"}
CONFIG = CloudConfig(request_interval_s=0, launch_interval_s=0)


@pytest.fixture
def sim() -> Iterator[SimulatedCloud]:
    with SimulatedCloud(CONFIG) as sim:
        yield sim


def get(
    url: str, headers: dict[str, str] = BEARER, timeout: float = 10, **options: Any
) -> requests.Response:
    return requests.get(url, headers=headers, timeout=timeout, **options)


def post(url: str, body: Any) -> requests.Response:
    return requests.post(url, json=body, headers=BEARER, timeout=10)


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Bearer sim", 200),
        ("bearer sim", 200),
        ("Basic " + base64.b64encode(b"sim:").decode(), 200),
        ("Basic sim", 200),
        ("Basic " + base64.b64encode(b"sim:password").decode(), 401),
        ("Bearer other", 401),
        ("Bearer", 401),
        ("Digest sim", 401),
        ("", 401),
    ],
)
def test_the_documented_ways_to_present_a_key(
    sim: SimulatedCloud, document: Contract | None, header: str, status: int
) -> None:
    reply = get(f"{sim.api_url}/instances", headers={"Authorization": header})
    assert reply.status_code == status
    assert reply.headers["Content-Type"].startswith("application/json")
    if document:
        document.check_response("GET", "/api/v1/instances", status, reply.json())


def test_a_launch_goes_over_http_and_time_is_moved_by_the_controls(sim: SimulatedCloud) -> None:
    post(f"{sim.api_url}/ssh-keys", {"name": "k", "public_key": "ssh-ed25519 AAAA k"})
    body = {
        "region_name": "us-west-1",
        "instance_type_name": "gpu_1x_a10",
        "ssh_key_names": ["k"],
    }
    reply = post(f"{sim.api_url}/instance-operations/launch", body)
    (made,) = reply.json()["data"]["instance_ids"]
    assert post(f"{sim.url}/sim/clock", {"advance_s": 400}).json()["data"] == {
        "now": sim.clock.now()
    }
    assert get(f"{sim.api_url}/instances/{made}").json()["data"]["status"] == "active"
    bill = get(f"{sim.url}/sim/ledger").json()["data"]
    assert [r["id"] for r in bill["rows"]] == [made]
    report = post(f"{sim.url}/sim/invariants", {"expect_none": True}).json()["data"]
    assert (report["alive"], report["leaked_instances"]) == (1, 0)
    post(f"{sim.url}/sim/clock", {"advance_s": 5})
    assert get(f"{sim.url}/sim/invariants").json()["data"]["leaked_seconds"] == 5
    calls = get(f"{sim.url}/sim/calls", params={"endpoint": "launch"}).json()["data"]
    assert [c["subject"] for c in calls] == ["gpu_1x_a10 us-west-1"]


def test_a_body_need_not_say_that_it_is_json(sim: SimulatedCloud) -> None:
    raw = '{"name": "k", "public_key": "ssh-ed25519 AAAA k"}'
    url = f"{sim.api_url}/ssh-keys"
    assert requests.post(url, data=raw, headers=BEARER, timeout=10).status_code == 200
    broken = requests.post(url, data="{broken", headers=BEARER, timeout=10)
    assert broken.json()["error"]["code"] == "global/invalid-parameters"


def test_faults_are_added_listed_and_ended_over_http(sim: SimulatedCloud) -> None:
    url = f"{sim.url}/sim/faults"
    added = post(url, {"kind": "fail_next", "endpoint": "list", "failure": 500, "n": 9})
    number = added.json()["data"]["id"]
    assert get(f"{sim.api_url}/instances").status_code == 500
    (row,) = get(url).json()["data"]
    assert (row["id"], row["kind"], row["left"]) == (number, "fail_next", 8)
    assert requests.delete(f"{url}/{number}", timeout=10).status_code == 200
    assert get(f"{sim.api_url}/instances").status_code == 200
    assert requests.delete(f"{url}/{number}", timeout=10).status_code == 400
    post(url, {"kind": "revoke_key"})
    assert get(f"{sim.api_url}/instances").status_code == 401
    requests.delete(url, timeout=10)
    assert get(f"{sim.api_url}/instances").status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("faults", {"kind": "comet"}, "kind"),
        ("faults", {"kind": "preempt", "instance_id": "unknown"}, "instance_id"),
        ("clock", {"advance_s": -1}, "seconds"),
        ("clock", {"advance_s": "1"}, "advance_s"),
        ("invariants", {"expect_none": 1}, "expect_none"),
    ],
)
def test_controls_name_what_is_wrong(
    sim: SimulatedCloud, path: str, body: dict[str, Any], said: str
) -> None:
    reply = post(f"{sim.url}/sim/{path}", body)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"].startswith(f"{said}: ")


def test_unknown_paths(sim: SimulatedCloud) -> None:
    reply = get(f"{sim.api_url}/nowhere")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "global/not-found")
    assert get(f"{sim.url}/sim/nowhere").status_code == 404
    assert get(sim.url).status_code == 404


def test_a_reset_is_a_reset(sim: SimulatedCloud) -> None:
    sim.add_fault(FailNext("list", "reset"))
    with pytest.raises(requests.ConnectionError, match="reset by peer"):
        get(f"{sim.api_url}/instances")
    assert get(f"{sim.api_url}/instances").status_code == 200


def test_no_answer_holds_the_line_and_no_one_else(sim: SimulatedCloud) -> None:
    sim.add_fault(FailNext("list", "timeout"))
    with pytest.raises(requests.ReadTimeout):
        get(f"{sim.api_url}/instances", timeout=0.3)
    assert get(f"{sim.api_url}/instances").status_code == 200


def test_a_held_line_does_not_outlive_the_server() -> None:
    with SimulatedCloud(CONFIG) as sim:
        sim.add_fault(FailNext("list", "timeout"))
        with pytest.raises(requests.ReadTimeout):
            get(f"{sim.api_url}/instances", timeout=0.2)
        url = sim.api_url
    with pytest.raises(requests.ConnectionError):
        get(f"{url}/instances")


def test_a_taken_port_is_an_error_of_the_caller(sim: SimulatedCloud) -> None:
    port = int(sim.url.rsplit(":", 1)[1])
    second = SimulatedCloud(CONFIG, port=port)
    with pytest.raises(OSError):
        second.start()
    second.stop()


def test_real_time_runs_at_its_speed_and_settles_by_itself() -> None:
    clock = ScaledClock(speed=100_000)
    with SimulatedCloud(CONFIG, clock=clock) as sim:
        sim.cloud.account.add_ssh_key("k", "ssh-ed25519 AAAA k")
        with sim.cloud.lock:
            made = sim.cloud.commit(LaunchSpec("gpu_1x_a10", "us-west-1", "k"))
        deadline = time.monotonic() + 20
        while made.status == "booting" and time.monotonic() < deadline:
            time.sleep(0.02)
        assert made.status == "active"
        with pytest.raises(TypeError):
            sim.advance(1)
        refused = post(f"{sim.url}/sim/clock", {"advance_s": 1})
        assert refused.status_code == 400


def test_rates_are_measured_by_the_clients_watch() -> None:
    config = CloudConfig(request_interval_s=3600)
    with SimulatedCloud(config, clock=ScaledClock(speed=1e9)) as sim:
        assert get(f"{sim.api_url}/instances").status_code == 200
        assert get(f"{sim.api_url}/instances").status_code == 429


def test_set_takes_the_old_name_of_a_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--set", "ails_within_s=5", "--check"]) == 0
    assert main(["--set", "ailing_s=5", "--check"]) == 2
    assert "no field 'ailing_s'" in capsys.readouterr().err


def test_the_command_serves_until_a_signal() -> None:
    command = [sys.executable, "-m", "autoscaler.simulator", "--seed", "3", "--speed", "0"]
    env = {**os.environ, "LAMBDA_API_KEY": "own-key"}
    with subprocess.Popen(command, cwd=REPO, env=env, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            own = {"Authorization": "Bearer own-key"}
            assert get(f"{url}/api/v1/instances", headers=own).status_code == 200
            assert get(f"{url}/api/v1/instances").status_code == 401
            assert post(f"{url}/sim/clock", {"advance_s": 60}).status_code == 200
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_the_command_says_what_it_cannot_do(
    sim: SimulatedCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    port = sim.url.rsplit(":", 1)[1]
    assert main(["--port", port]) == 2
    assert main(["--speed", "-1"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(":")[0] for line in err.splitlines()] == [
        "cannot listen on 127.0.0.1",
        "--speed",
    ]
