"""A `docker` section: what Ray then runs on the machine, and what in the container."""

import copy
import json
import subprocess

import pytest
from ray.autoscaler._private.updater import NodeUpdater
from ray.autoscaler._private.util import prepare_config, validate_config

from autoscaler.bootstrap import bootstrap
from autoscaler.ssh.runner import SHUTDOWN
from tests import provider_rig as rig

IMAGE_HOME = "/home/ray"
MOUNTED = "/tmp/ray_tmp_mount/demo"
"""Below it Ray puts the file mounts on the machine, to be seen in the container."""
GPUS = "--gpus all"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LAMBDA_API_KEY", "secret_key_0123456789")
    monkeypatch.delenv("LAMBDA_API_URL", raising=False)


class Machine:
    """In place of the subprocess module: a new machine with Docker and a good GPU."""

    ANSWERS = {
        "base64": 'raylambda-health-check {"problem": null}',
        "command -v docker": "/usr/bin/docker",
        ".State.Running": "false",
        ".Config.Env": json.dumps([f"HOME={IMAGE_HOME}"]),
        "printenv HOME": IMAGE_HOME,
    }

    def __init__(self):
        self.commands: list[str] = []

    def check_output(self, command, **_):
        self.check_call(command)
        return next((a for q, a in self.ANSWERS.items() if q in command[-1]), "").encode()

    def check_call(self, command, **_):
        words = command if command[0] == "rsync" else command[command.index("bash") :]
        self.commands.append(" ".join(words))  # as ssh joins them
        return 0

    def index(self, *words: str) -> int:
        """Of the only command that has all the words."""
        (found,) = [n for n, c in enumerate(self.commands) if all(w in c for w in words)]
        return found


@pytest.fixture
def config():
    """The laptop's configuration, as `ray up` bootstraps it."""
    yaml = copy.deepcopy(rig.CLUSTER) | {
        "docker": {
            "image": "an/image",
            "container_name": "ray",
            "worker_run_options": [GPUS],
        }
    }
    filled = bootstrap.fill_resources(prepare_config(yaml))
    validate_config(filled)
    return bootstrap.bootstrap(filled)


def set_up(sim, tmp_path, config, kind):
    """A new node of the kind, set up by Ray's own updater; what was run for that."""
    on_head = kind == "worker"
    section = rig.head_section(config) if on_head else rig.laptop_section(config)
    provider = rig.provider_on(section, rig.session(sim, tmp_path / kind))
    (node,) = rig.make(provider, name="head" if kind == "head" else "gpu")
    sim.advance(400.0)
    provider.non_terminated_nodes({})
    machine = Machine()
    NodeUpdater(
        node_id=node,
        provider_config=provider.provider_config,
        provider=provider,
        auth_config=config["auth"],
        cluster_name="demo",
        file_mounts=config["file_mounts"],
        initialization_commands=[],
        setup_commands=config["setup_commands"] or ["echo setup"],
        ray_start_commands=config[f"{kind}_start_ray_commands"],
        runtime_hash="r",
        file_mounts_contents_hash="f",
        is_head_node=kind == "head",
        process_runner=machine,
        use_internal_ip=on_head,
        docker_config=config["docker"],
    ).run()
    assert provider.node_tags(node)["ray-node-status"] == "up-to-date"
    return machine


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_the_machine_is_checked_and_the_container_set_up(
    sim, tmp_path, monkeypatch, config, kind, capfd
):
    monkeypatch.setattr("autoscaler.nodes.maintenance.own_address", lambda towards: "10.0.0.1")
    mounts = dict(config["file_mounts"])
    if kind == "worker":
        for name in ("api_key", "api_url"):
            config["file_mounts"].pop(f"~/.raylambda/{name}")
    machine = set_up(sim, tmp_path, config, kind)
    check, run = machine.index("base64 -d | python3"), machine.index("docker run", "an/image")
    # Before all but Ray's question whether ssh is up, and not in the container.
    assert check == 1 and "docker" not in machine.commands[check]
    assert (GPUS in machine.commands[run]) == (kind == "worker")
    for remote, local in mounts.items():
        inside = remote.replace("~", IMAGE_HOME)
        is_mounted = f"-v {MOUNTED}/{remote}:{inside}" in machine.commands[run]
        assert is_mounted == (remote in config["file_mounts"]), remote
        if is_mounted:
            assert machine.index("rsync", local, f":{MOUNTED}/{remote}") < run
    setup = machine.index("docker exec", "echo setup")
    start = machine.index("docker exec", "export RAY_AUTH_MODE=token; ray start")
    assert check < run < setup < start
    assert "secret_key" not in "".join(machine.commands)


def test_a_stop_ends_the_cluster_from_the_container(sim, tmp_path, config, capfd):
    """As `ray exec --stop` sends it, through a shell, with a `docker` that enters nothing."""
    provider = rig.provider_on(rig.laptop_section(config), rig.session(sim, tmp_path / "laptop"))
    (node,) = rig.make(provider, name="head")
    sim.advance(400.0)
    provider.non_terminated_nodes({})
    machine = Machine()
    runner = provider.get_command_runner(
        "", node, config["auth"], "demo", machine, False, config["docker"]
    )
    runner.run(f"echo job; {SHUTDOWN}")
    machine_home, home_inside = tmp_path / "on-machine", tmp_path / "in-container"
    enter = f'while [ "$1" != ray ]; do shift; done; HOME={home_inside} "${{@:2}}"'
    for path, script in (
        (machine_home / ".bashrc", f"PATH={machine_home}:/usr/bin:/bin"),
        (machine_home / "docker", enter),
        (home_inside / ".bashrc", f"PATH={home_inside}:/usr/bin:/bin"),
        (home_inside / "ray", ""),
        (home_inside / "python", 'echo "python $@"'),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", machine.commands[-1]],
        env={"HOME": str(machine_home), "PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split("\n")[:2] == ["job", "python -m autoscaler.cli end-cluster"]
