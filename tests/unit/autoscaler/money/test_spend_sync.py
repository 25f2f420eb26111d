"""One run, several heads: the total cap counts all of them."""

import re

import click
import pytest
from click import ClickException

from autoscaler.commands import end_cluster
from autoscaler.errors import ProtocolError
from autoscaler.money.budget import spent_cents
from autoscaler.simulator import InstanceFault
from tests import provider_rig as rig
from tests.provider_rig import make


class Run:
    """A laptop that runs `ray up` again and again, each time with a head of its own."""

    def __init__(self, sim, folder, **caps):
        self.sim = sim
        self.folder = folder
        self.section = rig.laptop_section(rig.cluster_yaml(**caps))
        self.heads = 0
        self.laptop = self.new_laptop()

    def new_laptop(self):
        return rig.provider_on(self.section, rig.session(self.sim, self.folder / "laptop"))

    def up(self):
        """The head's provider; its machine is the newest."""
        self.laptop = self.new_laptop()
        self.laptop.non_terminated_nodes({})
        (self.head_id,) = make(self.laptop, name="head")
        self.heads += 1
        home = self.folder / f"head{self.heads}"
        return rig.head_of(self.laptop, rig.session(self.sim, home))

    def live(self, head, seconds):
        end_s = self.sim.clock.now() + seconds
        while self.sim.clock.now() < end_s and self.sim.cloud.instances[self.head_id].alive:
            self.sim.advance(20.0)
            head.non_terminated_nodes({})

    @property
    def billed_cents(self):
        return self.sim.invariants.report()["spend_cents"]


def counted(provider):
    """What the provider's machine counts for the run, in cents."""
    session = provider.cluster.session
    return spent_cents(session.journal.commitments("demo"), session.clock())


def test_a_spent_cap_stays_spent_until_ray_down(sim, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    run = Run(sim, tmp_path, max_total_cents=500)
    head = run.up()
    make(head)
    run.live(head, 7200.0)
    assert sim.invariants.report()["alive"] == 0 and run.billed_cents > 450
    with pytest.raises(ClickException, match="run `ray down`, and the next run starts") as caught:
        run.up()
    assert caught.value.exit_code == 3 and "\n" not in str(caught.value)
    assert "for workers of heads that ended before they reported" in str(caught.value)
    assert run.billed_cents <= 500
    run.laptop.cleanup_cluster_resources()
    assert "at most $4." in capsys.readouterr().out
    make(run.up())


def test_a_cap_that_is_raised_leaves_the_difference(sim, tmp_path):
    run = Run(sim, tmp_path, max_total_cents=500)
    head = run.up()
    make(head)
    run.live(head, 7200.0)
    run.section["max_total_cents"] = 1000
    head = run.up()
    make(head)
    run.live(head, 7200.0)
    assert 900 < run.billed_cents <= 1000


def test_a_lost_head_counts_for_what_it_may_have_spent_and_no_machine_twice(sim, tmp_path):
    run = Run(sim, tmp_path, max_price_cents_per_hour=900, max_total_cents=2000)
    head = run.up()
    first, second = make(head, 2)
    run.live(head, 1200.0)
    head.terminate_node(first)
    sim.add_fault(InstanceFault("preempt", run.head_id))
    sim.advance(600.0)
    head = run.up()
    head.non_terminated_nodes({})
    sim.advance(60.0)
    # The half hour of which the head reported nothing counts at the cap, less what is known of it.
    most = (900 - 20 - 429) * 32 / 60 + 20
    assert run.billed_cents <= counted(head) <= run.billed_cents + most
    # The worker that was left is this head's now, and its whole life counts once.
    assert second in head.cluster.session.ledger.running_ids("demo")
    run.laptop.prepare_for_head_node(rig.cluster_yaml() | {"provider": dict(run.section)})
    again = rig.head_of(run.laptop, head.cluster.session)
    before = counted(again)
    again.non_terminated_nodes({})
    assert counted(again) == before


class Ssh:
    """In place of the subprocess module: a head that answers what it is asked."""

    def __init__(self, answer):
        self.answer = answer
        self.commands = []

    def check_call(self, command, **_):
        self.commands.append(command[-1])
        return 0

    def check_output(self, command, **_):
        self.commands.append(command[-1])
        return self.answer().encode()


def stop_ray(run, ssh, docker=None):
    runner = run.laptop.get_command_runner(
        "", run.head_id, {"ssh_user": "ubuntu"}, "demo", ssh, False, docker
    )
    runner.run("ray stop")


CONTAINER = {"container_name": "c", "image": "i"}


@pytest.mark.parametrize("docker", [None, CONTAINER])
def test_ray_down_tells_what_the_heads_workers_have_cost(
    sim, tmp_path, monkeypatch, capsys, docker
):
    monkeypatch.setenv("HOME", str(tmp_path))
    run = Run(sim, tmp_path, max_price_cents_per_hour=900)
    head = run.up()
    (worker,) = make(head)
    sim.advance(60.0)
    run.new_laptop().non_terminated_nodes({})
    run.live(head, 3600.0)
    head.terminate_node(worker)
    run.live(head, 3600.0)
    run.laptop = run.new_laptop()
    run.laptop.non_terminated_nodes({})
    (tmp_path / "ray_bootstrap_config.yaml").write_text('{"cluster_name": "demo"}')
    monkeypatch.setattr(end_cluster, "open_session", lambda: head.cluster.session)

    def on_the_head():
        assert end_cluster.report_charges() == 0
        return "noise\r\n" + capsys.readouterr().out

    ssh = Ssh(on_the_head)
    stop_ray(run, ssh, docker)
    assert "ray stop" in ssh.commands[0] and "ray stop" not in ssh.commands[1]
    assert "autoscaler.cli charges" in ssh.commands[1]
    run.laptop.terminate_nodes(run.laptop.nodes_for_teardown({}))
    run.laptop.cleanup_cluster_resources()
    out = capsys.readouterr().out
    (told,) = re.findall(r"This run cost about \$(\d+\.\d\d)", out)
    assert run.billed_cents <= float(told) * 100 <= run.billed_cents + 40
    assert "at most" not in out


def test_a_head_that_tells_nothing_changes_nothing(sim, tmp_path):
    run = Run(sim, tmp_path)
    run.up()
    session = run.laptop.cluster.session
    before = session.ledger.charges("demo")
    sim.advance(400.0)
    run.laptop.non_terminated_nodes({})
    for answer in (
        "",
        "raylambda-charges [[1]]",
        'raylambda-charges [["a"',
        "raylambda-charges {}",
    ):
        stop_ray(run, Ssh(lambda answer=answer: answer))
        with pytest.raises(ProtocolError):
            session.spend_sync("demo").import_report(run.head_id, answer)

    def no_ssh():
        raise click.ClickException("no ssh")

    stop_ray(run, Ssh(no_ssh))
    assert session.ledger.charges("demo") == before


def test_the_head_asks_nobody(sim, tmp_path):
    """It runs `ray stop` on its workers, as a part of every setup."""
    run = Run(sim, tmp_path)
    head = run.up()
    (worker,) = make(head)
    sim.advance(400.0)
    head.non_terminated_nodes({})
    ssh = Ssh(lambda: "")
    for node in (worker, run.head_id):
        head.get_command_runner("", node, {"ssh_user": "u"}, "demo", ssh, True).run("ray stop")
    assert len(ssh.commands) == 2


def test_only_a_head_has_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert end_cluster.report_charges() == 2
    assert "not a head's configuration" in capsys.readouterr().err
