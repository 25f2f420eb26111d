"""Ray's updater over our runner: the health check comes first, once, and only on new nodes."""

import subprocess

import click
import pytest
from ray.autoscaler._private.command_runner import DockerCommandRunner
from ray.autoscaler._private.updater import NodeUpdater

from autoscaler.bootstrap.files import cluster_files, write_secret
from autoscaler.instances.unavailable_offerings import Reason
from autoscaler.ssh.runner import (
    DASHBOARD_PORT,
    SHUTDOWN,
    TEARDOWN,
    CheckedSSHCommandRunner,
    dashboard_help,
)
from tests import provider_rig as rig

GOOD, BAD = (
    b'raylambda-health-check {"problem": null}\r\n',
    b'raylambda-health-check {"problem": "no CUDA"}\n',
)


class Machine:
    """In place of the subprocess module: notes commands, and answers the health check."""

    def __init__(self, verdict: bytes = GOOD) -> None:
        self.verdict = verdict
        self.commands: list[str] = []

    def check_output(self, command, **_):
        self.commands.append("health check" if "base64" in command[-1] else command[-1])
        return self.verdict

    def check_call(self, command, **_):
        self.commands.append(command[0] if command[0] == "rsync" else command[-1])
        return 0


@pytest.fixture(autouse=True)
def way(monkeypatch):
    """How the head's own machine says that it reaches its workers."""
    asked = []
    answers = ["10.9.9.9"]
    monkeypatch.setattr(
        "autoscaler.nodes.maintenance.own_address",
        lambda towards: asked.append(towards) or answers[0],
    )
    return asked, answers


@pytest.fixture
def provider(sim, tmp_path):
    return rig.provider_on(rig.head_section(rig.CLUSTER), rig.session(sim, tmp_path))


@pytest.fixture
def node(sim, provider):
    (made,) = provider.create_node(rig.node_config(), rig.ray_tags(), 1)
    sim.advance(400.0)
    provider.non_terminated_nodes({})
    provider.set_node_tags(made, {"ray-node-status": "waiting-for-ssh"})
    return made


def runner(provider, node, machine, docker=None):
    return provider.get_command_runner(
        "", node, {"ssh_user": "ubuntu"}, "demo", machine, True, docker
    )


def update(provider, node, machine, tmp_path):
    mounted = tmp_path / "file"
    mounted.write_text("x")
    NodeUpdater(
        node_id=node,
        provider_config=provider.provider_config,
        provider=provider,
        auth_config={"ssh_user": "ubuntu"},
        cluster_name="demo",
        file_mounts={"~/file": str(mounted)},
        initialization_commands=[],
        setup_commands=["echo setup"],
        ray_start_commands=["ray start"],
        runtime_hash="r",
        file_mounts_contents_hash="f",
        is_head_node=False,
        process_runner=machine,
        use_internal_ip=True,
    ).run()


def test_the_health_check_comes_before_all_but_the_question_whether_ssh_is_up(
    provider, node, tmp_path, capfd
):
    machine = Machine()
    update(provider, node, machine, tmp_path)
    assert "uptime" in machine.commands[0] and machine.commands[1] == "health check"
    assert machine.commands.count("health check") == 1
    assert provider.node_tags(node)["ray-node-status"] == "up-to-date"
    again = Machine()
    runner(provider, node, again).run("echo hello")
    assert len(again.commands) == 1, "a node in use is not checked again"


def test_a_passed_health_check_proves_the_offering(provider, node):
    offering = provider.cluster.find(node).instance.offering
    provider.cluster.session.unavailable_offerings.mark_unavailable(
        offering, Reason.SUSPECT, 0.0, advertised=True
    )
    runner(provider, node, Machine()).run("echo hello")
    assert provider.cluster.session.unavailable_offerings.all() == []


def test_an_unhealthy_node_ends_before_anything_runs_on_it(sim, provider, node, tmp_path, capfd):
    machine = Machine(BAD)
    update(provider, node, machine, tmp_path)
    assert machine.commands[-1] == "health check" and len(machine.commands) == 2
    assert sim.invariants.report()["alive"] == 0
    (said,) = rig.events(provider.cluster.session, "node-unhealthy")
    assert said["reason"] == "no CUDA"
    out = capfd.readouterr().out
    assert "no CUDA" in out and "Traceback" not in out


@pytest.mark.parametrize("status", ["up-to-date", "uninitialized"])
def test_nodes_in_use_are_never_checked(sim, provider, node, status):
    """`ray exec` from a machine that knows nothing of the node must not end it."""
    provider.set_node_tags(node, {"ray-node-status": status})
    machine = Machine(BAD)
    runner(provider, node, machine).run("echo hello")
    assert len(machine.commands) == 1 and sim.invariants.report()["alive"] == 1


def test_rsync_waits_for_the_health_check_too(provider, node):
    machine = Machine(BAD)
    with pytest.raises(click.ClickException, match="no CUDA"):
        runner(provider, node, machine).run_rsync_up("a", "b")
    assert machine.commands == ["health check"]


def test_no_verdict_condemns_nobody(sim, provider, node):
    with pytest.raises(click.ClickException, match="verdict"):
        runner(provider, node, Machine(b"python3: not found")).run("echo")
    assert sim.invariants.report()["alive"] == 1


def test_ssh_that_fails_is_no_verdict(sim, provider, node):
    machine = Machine()

    def fails(command, **_):
        raise subprocess.CalledProcessError(255, command)

    machine.check_output = fails
    with pytest.raises(click.ClickException):
        runner(provider, node, machine).run("echo")
    assert sim.invariants.report()["alive"] == 1


def test_the_health_check_asks_for_the_types_gpus_and_the_clusters_head(
    sim, provider, node, tmp_path
):
    laptop = rig.provider_on(rig.laptop_section(rig.CLUSTER), rig.session(sim, tmp_path / "l"))
    (head,) = laptop.create_node(rig.node_config("head"), rig.ray_tags("head"), 1)
    sim.advance(400.0)
    provider.non_terminated_nodes({})
    provider.set_node_tags(head, {"ray-node-status": "waiting-for-ssh"})
    check = provider.cluster.health.health_check(node)
    assert check.gpus == 1 and check.head_ip == provider.internal_ip(head)
    own = provider.cluster.health.health_check(head)
    assert own.gpus == 0 and own.head_ip is None


def test_a_head_that_no_list_shows_knows_its_own_address(provider, node, way):
    asked, _ = way
    assert provider.cluster.health.health_check(node).head_ip == "10.9.9.9"
    assert asked == [provider.internal_ip(node)]


def test_without_the_heads_address_nothing_runs_on_a_worker(sim, provider, node, way):
    _, answers = way
    answers[0] = None
    machine = Machine()
    with pytest.raises(
        click.ClickException, match="health check not possible yet: the head has no private"
    ):
        runner(provider, node, machine).run("echo hello")
    assert machine.commands == [] and sim.invariants.report()["alive"] == 1


@pytest.mark.parametrize("docker", [None, {"container_name": "c", "image": "i"}])
def test_a_shutdown_ends_the_bill(provider, node, docker):
    machine = Machine()
    made = runner(provider, node, machine, docker)
    made.run("ray stop; sudo shutdown -h now", run_env="host")
    made.run("job", run_env="host", shutdown_after_run=True)
    for command in machine.commands[1:]:
        assert "shutdown" not in command and "autoscaler.cli end-cluster" in command


class LostConnection(Machine):
    """The head goes, and takes the connection along."""

    def check_call(self, command, **_):
        super().check_call(command)
        raise subprocess.CalledProcessError(255, command)


STOPPING = f"job; ray stop; {TEARDOWN}{SHUTDOWN}"
"""As `ray exec --stop` sends it."""


def test_an_end_that_took_the_connection_along_is_an_end(provider, node, capsys):
    machine = LostConnection()
    provider.cluster.session.client.terminate([node])
    runner(provider, node, machine).run(STOPPING)
    assert "ray stop; " in machine.commands[-1] and "teardown" not in machine.commands[-1]
    assert "The cluster has ended" in "".join(capsys.readouterr())


def test_a_lost_connection_alone_is_none(provider, node):
    with pytest.raises(click.ClickException, match="failed"):
        runner(provider, node, LostConnection()).run(STOPPING)


def test_docker_is_behind_the_health_check(provider, node):
    made = runner(provider, node, Machine(), {"container_name": "c", "image": "i"})
    assert isinstance(made, DockerCommandRunner)
    assert isinstance(made.ssh_command_runner, CheckedSSHCommandRunner)


@pytest.fixture
def token_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = cluster_files("demo").ray_token
    write_secret(path, "0123")
    return path


def test_a_forwarded_dashboard_says_how_to_log_in(provider, node, token_file, capfd):
    machine = Machine()
    forwards = [(6006, 6006), (9000, DASHBOARD_PORT)]
    runner(provider, node, machine).run(None, port_forward=forwards)
    said = capfd.readouterr().out
    assert f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={token_file}\n" in said
    assert "http://localhost:9000" in said and "0123" not in said


@pytest.mark.parametrize("forwards", [[(6006, 6006)], None])
def test_other_ports_need_no_token(provider, node, token_file, capfd, forwards):
    runner(provider, node, Machine()).run("echo", port_forward=forwards)
    assert "RAY_AUTH" not in capfd.readouterr().out


def test_without_the_token_nothing_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert dashboard_help("demo", [(9000, DASHBOARD_PORT)]) == []
