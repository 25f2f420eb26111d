"""What `raylambda status` shows, and its exit codes."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from autoscaler import cli
from autoscaler.commands.status import StatusReport, duration, event_line, render
from autoscaler.domain import Charge, Instance, InstanceType, LaunchRequest, Offering, Status
from autoscaler.events import EventLog
from autoscaler.instances.unavailable_offerings import Reason, UnavailableOffering
from autoscaler.session import open_session
from autoscaler.simulator import CloudConfig, SimulatedCloud

NOW_S = 1_800_000_000.0
H100 = InstanceType("gpu_1x_h100_pcie", 329, 26, 225, 1)
CPU = InstanceType("cpu_4x_general", 20, 4, 16, 0)


def instance(number: int, kind: InstanceType, status: Status, **tags: str) -> Instance:
    return Instance(f"id-{number}", status, "us-east-1", kind, ip=f"192.0.2.{number}", tags=tags)


def of_cluster(kind: str, node_type: str, age_s: float) -> dict[str, str]:
    return {
        "ray-cluster-name": "mine",
        "ray-node-type": kind,
        "ray-user-node-type": node_type,
        "raylambda-created": str(int(NOW_S - age_s)),
    }


def snapshot(**fields: object) -> StatusReport:
    base: dict[str, object] = {"instances": [], "charges": {}, "unavailable": [], "events": []}
    return StatusReport(NOW_S, **{**base, **fields})  # type: ignore[arg-type]


def test_nothing_runs() -> None:
    assert render(snapshot()) == "0 instances, $0.00/h\n"


def test_what_runs_with_prices_and_ages() -> None:
    lines = render(
        snapshot(
            instances=[
                instance(2, H100, Status.BOOTING, **of_cluster("worker", "h100", 30)),
                instance(1, CPU, Status.ACTIVE, **of_cluster("head", "head", 7200)),
                instance(3, CPU, Status.TERMINATING, **of_cluster("worker", "head", 60)),
                instance(4, CPU, Status.TERMINATED),
            ]
        )
    ).splitlines()
    assert lines[0] == "2 instances, $3.49/h"  # what is ending bills no more
    words = [line.split() for line in lines[1:]]
    assert words[0] == (
        "mine head cpu_4x_general us-east-1 active $0.20/h 2 h 00 min 192.0.2.1 id-1".split()
    )
    assert words[1][4:8] == ["booting", "$3.29/h", "30", "s"]
    assert words[2][4:8] == ["terminating", "$0.20/h", "60", "s"]
    assert len(lines) == 4


def test_an_unknown_price_is_said() -> None:
    odd = InstanceType("gpu_1x_new", None, 1, 1, 1)
    first = render(snapshot(instances=[instance(1, odd, Status.ACTIVE)])).splitlines()[0]
    assert first == "1 instance, $0.00/h and 1 of unknown price"


def test_spend_of_the_run() -> None:
    charges = [Charge(329, NOW_S - 3600), Charge(20, NOW_S - 7200, NOW_S - 3600)]
    text = render(snapshot(charges={"mine": charges}))
    assert "mine: as far as this machine knows, this run has cost about $3.49, $3.29/h now" in text
    text = render(snapshot(charges={"mine": [Charge(None, NOW_S - 60)]}))
    assert "mine: as far as this machine knows, this run has cost an unknown sum" in text


def test_closed_places_soonest_first_and_without_those_that_are_open_again() -> None:
    unavailable = [
        UnavailableOffering(
            Offering("gpu_1x_h100_pcie", "us-west-1"), Reason.SUSPECT, 1, NOW_S, NOW_S + 600
        ),
        UnavailableOffering(
            Offering("gpu_1x_a10", "us-east-1"), Reason.STOCKOUT, 3, NOW_S, NOW_S + 45
        ),
        UnavailableOffering(
            Offering("gpu_1x_a100", "us-east-1"), Reason.STOCKOUT, 1, NOW_S - 90, NOW_S - 60
        ),
    ]
    lines = render(snapshot(unavailable=unavailable)).splitlines()
    start = lines.index("not tried now:")
    assert lines[start + 1].split()[:2] == ["gpu_1x_a10", "us-east-1"]
    assert lines[start + 1].endswith("refused 3 times  next try in 45 s")
    assert lines[start + 2].endswith("refused 1 time   next try in 10 min")
    assert len(lines) == start + 3


def test_events() -> None:
    at = time.strftime("%H:%M:%S", time.localtime(NOW_S))
    event = {
        "time": NOW_S,
        "event": "place-closed",
        "type": "gpu_1x_a10",
        "reason": "no capacity",
    }
    assert event_line(event) == f'{at}  place-closed  type=gpu_1x_a10 reason="no capacity"'
    assert event_line({}) == "?  ?"
    assert render(snapshot(events=[event])).endswith(f"last events:\n  {event_line(event)}\n")


def test_lambda_away() -> None:
    text = render(snapshot(instances=None, problem="GET /instances: no answer"))
    assert text == "instances unknown: GET /instances: no answer\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (89, "89 s"), (600, "10 min"), (11_100, "3 h 05 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_command_asks_lambda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with SimulatedCloud(CloudConfig(request_interval_s=0)) as sim:
        monkeypatch.setenv("LAMBDA_API_URL", sim.api_url)
        monkeypatch.setenv("LAMBDA_API_KEY", "sim")
        assert cli.main(["status"]) == 0
        assert capsys.readouterr().out == "0 instances, $0.00/h\n"
        assert cli.main(["status", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["instances"] == []
    monkeypatch.delenv("LAMBDA_API_KEY")
    assert cli.main(["status"]) == 2
    assert capsys.readouterr().err.startswith("error: no API key: set LAMBDA_API_KEY")


def test_the_command_shows_what_it_knows_when_the_key_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with SimulatedCloud(CloudConfig(request_interval_s=0)) as sim:
        monkeypatch.setenv("LAMBDA_API_URL", sim.api_url)
        monkeypatch.setenv("LAMBDA_API_KEY", "wrong")
        assert cli.main(["status"]) == 1
    assert capsys.readouterr().out.startswith("instances unknown: ")


@pytest.fixture
def head_of_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A cloud with the head of a cluster, where a launch was refused; `ssh` goes to it: it runs
    the command in the head's home directory. Yields the file of ssh's arguments."""
    laptop, head = tmp_path / "laptop", tmp_path / "head"
    EventLog(head / ".raylambda/events.jsonl").write(
        "place-closed", type="gpu_1x_a10", code="\x1b["
    )
    (laptop / ".raylambda").mkdir(parents=True)
    (laptop / ".raylambda/id_ed25519").touch()
    ssh = tmp_path / "bin/ssh"
    ssh.parent.mkdir()
    enter = f"HOME={head} PATH={Path(sys.executable).parent}:$PATH sh -c"
    ssh.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/said\n{enter} "$(eval echo \\${{$#}})"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(laptop))
    monkeypatch.setenv("LAMBDA_API_KEY", "sim")
    with SimulatedCloud(
        CloudConfig(enforce_rates=False, boot_s=dict.fromkeys(("cpu", "single", "multi"), (0, 0)))
    ) as sim:
        monkeypatch.setenv("LAMBDA_API_URL", sim.api_url)
        sim.cloud.account.add_ssh_key("k", "ssh-ed25519 AAAA")
        client = open_session().client
        tags = {"ray-node-type": "head", "ray-cluster-name": "demo"}
        client.launch(LaunchRequest("us-east-1", "cpu_4x_general", "k", "h", tags=tags))
        yield tmp_path / "said"


def test_the_heads_refusals_are_shown_on_the_laptop(head_of_demo: Path, capsys) -> None:
    assert cli.main(["status", "--events", "7"]) == 0
    shown = capsys.readouterr().out
    _, _, of_head = shown.partition("on the head of demo:\n")
    assert "place-closed  type=gpu_1x_a10 code=[" in of_head and "\x1b" not in of_head
    asked = head_of_demo.read_text()
    assert "id_ed25519" in asked and "ubuntu@198.18.0.1" in asked and "--events=7" in asked
    assert cli.main(["status", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["heads"]["demo"]
    assert told["instances"] is None and told["events"][0]["type"] == "gpu_1x_a10"


def test_a_head_that_cannot_be_asked_is_no_failure(head_of_demo: Path, capsys) -> None:
    ssh = head_of_demo.parent / "bin/ssh"
    ssh.write_text("#!/bin/sh\necho 'banner\nPermission denied' >&2; exit 255\n")
    assert cli.main(["status", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["heads"]["demo"]
    assert told["problem"].startswith("not asked (Permission denied): ray exec CLUSTER.yaml ")


def test_what_is_local_asks_nobody(head_of_demo: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("LAMBDA_API_URL", "http://127.0.0.1:1/api/v1")
    assert cli.main(["status", "--local"]) == 0
    assert capsys.readouterr().out == "" and not head_of_demo.exists()


def test_an_interrupt_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **flags: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("autoscaler.commands.status.run", interrupted)
    assert cli.main(["status"]) == 130


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["statsu"], "No such command 'statsu'"),
        (["status", "--event", "3"], "No such option: --event"),
        (["status", "--events", "x"], "Invalid value for '--events'"),
        (["status", "extra"], "extra"),
        (["status", "--cluster"], "--cluster"),
        ([], "Missing command"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], said: str, capsys) -> None:
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.count("\n") == 1


def test_the_simulator_parses_its_own_flags(capsys) -> None:
    assert cli.main(["sim", "--speed", "-1"]) == 2
    assert "--speed" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        cli.main(["sim", "--bogus"])
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit, match="0"):
        cli.main(["sim", "--help"])
    assert "usage: raylambda sim" in capsys.readouterr().out


def test_help_shows_what_people_run(capsys) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("status", "sim", "version", "check-head"))
    assert "end-cluster" not in out and "charges" not in out
