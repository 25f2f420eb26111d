"""`setup_node.sh` on a node whose environment is right, and what it leaves there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A home directory with the files that the YAML mounts."""
    code = tmp_path / "raylambda"
    for name in ("autoscaler", "cluster"):
        shutil.copytree(
            REPOSITORY / name, code / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "requirements.lock", "requirements-host.lock"):
        shutil.copy(REPOSITORY / name, code / name)
    (tmp_path / ".bashrc").write_text("case $- in *i*) ;; *) return ;; esac\n")
    return tmp_path


def bash(home: Path, command: str) -> "subprocess.CompletedProcess[str]":
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.run(
        ["bash", "-c", command],
        env={"HOME": str(home), "PATH": path},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def setup(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return bash(home, f"bash ~/raylambda/cluster/setup_node.sh {' '.join(arguments)}")


def version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def test_a_ready_node_stays_as_it_is_and_tells_its_version(node: Path) -> None:
    first = setup(node, version())
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("raylambda 0.") and f"Python {version()}" in first.stdout
    before = (node / ".bashrc").read_text()
    assert setup(node, version()).stdout == first.stdout
    assert (node / ".bashrc").read_text() == before
    assert before.count("node.env") == 1 and "case $-" in before
    assert not (node / ".raylambda" / "venv").exists()


def test_every_shell_then_finds_the_mounted_code(node: Path) -> None:
    setup(node, version())
    find = "python -c 'import autoscaler; print(autoscaler.__file__)'"
    # As Ray's commands come, and as plain ssh does: the second returns early from .bashrc.
    for shell in (f"source ~/.bashrc; {find}", f"bash -ic {find!r}"):
        done = bash(node, f". ~/.bashrc; {shell}")
        assert done.stdout.strip() == str(node / "raylambda/autoscaler/__init__.py"), done.stderr


def test_an_empty_home_gets_a_bashrc(node: Path) -> None:
    (node / ".bashrc").unlink()
    assert setup(node, version()).returncode == 0
    assert (node / ".bashrc").read_text() == '. "$HOME/.raylambda/node.env"\n'


def test_another_python_or_another_release_is_not_ready(node: Path) -> None:
    """Without a network the installation that must follow fails, and says so by its exit code."""
    lock = node / "raylambda/requirements.lock"
    lock.write_text(lock.read_text().replace("ray==2.60.0", "ray==2.59.0"))
    no_index = "PIP_NO_INDEX=1 PIP_FIND_LINKS= PIP_CONFIG_FILE=/dev/null"
    command = f"{no_index} bash ~/raylambda/cluster/setup_node.sh {version()}"
    done = bash(node, command)
    assert done.returncode != 0 and "uv" in done.stderr
    assert not (node / ".raylambda/node.env").exists()


def test_the_laptops_python_version_is_the_nodes(node: Path) -> None:
    wanted = node / ".raylambda/python_version"
    wanted.parent.mkdir()
    wanted.write_text(version())
    assert f"Python {version()}" in setup(node).stdout
    wanted.write_text("3.99")
    no_index = "PIP_NO_INDEX=1 PIP_FIND_LINKS= PIP_CONFIG_FILE=/dev/null"
    done = bash(node, f"{no_index} bash ~/raylambda/cluster/setup_node.sh")
    assert done.returncode != 0 and "uv" in done.stderr  # what is there is not ready


def test_an_environment_of_another_python_gives_way(node: Path) -> None:
    """A stand-in for uv, whose environment is this one."""
    venv, uv = node / ".raylambda/venv", node / ".raylambda/uv/bin/uv"
    make = f"[ $1 != venv ] || {{ rm -r {venv}; ln -s {sys.prefix} {venv}; }}"
    for path, script in (
        (venv / "bin/python", "[ $1 = -V ] && echo Python 3.9.1"),
        (uv, f'echo "$@" >> ~/said; {make}'),
    ):
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    ready_elsewhere = f"PATH=/usr/bin:/bin bash ~/raylambda/cluster/setup_node.sh {version()}"
    done = bash(node, ready_elsewhere)
    assert done.returncode == 0, done.stderr
    made = (node / "said").read_text().splitlines()[0]
    assert made == f"venv --quiet --clear --python {version()} {venv}"


@pytest.mark.parametrize("folder", ["v2", "_private"])
def test_rays_monitor_finds_our_package_beside_its_own_autoscaler_py(
    node: Path, folder: str
) -> None:
    setup(node, version())
    beside = node / "site/ray/autoscaler" / folder
    beside.mkdir(parents=True)
    (beside / "autoscaler.py").write_text("raise SystemExit('the wrong one')\n")
    (beside / "monitor.py").write_text(
        "from autoscaler.lambda_cloud.tags import CLUSTER; print(CLUSTER)\n"
    )
    done = bash(node, f". ~/.bashrc; python {beside}/monitor.py")
    assert done.stdout == "ray-cluster-name\n", done.stderr
    # Any other script keeps what Python does.
    os.rename(beside / "monitor.py", beside / "other.py")
    done = bash(node, f". ~/.bashrc; python {beside}/other.py")
    assert "the wrong one" in done.stderr
