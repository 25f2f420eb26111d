"""The import contracts of pyproject.toml fail where one puts in what they forbid."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("autoscaler", "ray_jobs", "data")
FORBIDDEN = {
    "product": ("autoscaler/session.py", "import data.storage"),
    "jobs": ("ray_jobs/checkpoint/store.py", "import ray_jobs.sae.config"),
    "waltzrl": ("ray_jobs/waltzrl/rollout/hf.py", "import ray_jobs.waltzrl.judges.judges"),
    "data": ("data/storage/store.py", "import data.manifest"),
    "provider": ("autoscaler/simulator/cloud/cloud.py", "import autoscaler.errors"),
    "simulator": ("autoscaler/simulator/cloud/cloud.py", "import autoscaler.simulator.api.api"),
    "http": ("autoscaler/provider.py", "from autoscaler.simulator import Simulation"),
    "prices": ("ray_jobs/sweep/cost.py", "import autoscaler.errors"),
    "pii": ("ray_jobs/pii/detector.py", "import ray_jobs.sae.loop"),
    "light": ("ray_jobs/results/report.py", "import torch"),
    "ray": ("autoscaler/nodes/cluster.py", "import ray"),
}
"""By the id of a contract: a file, and an import that this contract alone forbids there."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What import-linter needs of the repository."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return folder


def contracts() -> dict[str, str]:
    """Names of the contracts by id."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return {contract["id"]: contract["name"] for contract in linter["contracts"]}


def broken(folder: Path) -> set[str]:
    """Ids of the contracts that the sources in a folder break."""
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache", "--no-logo"],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder), "COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    verdicts = dict(re.findall(r"^(.*?) *(KEPT|BROKEN)\b", done.stdout, re.MULTILINE))
    names = contracts()
    assert set(verdicts) == set(names.values()), done.stdout + done.stderr
    return {id_ for id_, name in names.items() if verdicts[name] == "BROKEN"}


def test_the_sources_keep_every_contract_and_every_contract_is_broken_below(copy: Path) -> None:
    assert broken(copy) == set()
    assert set(contracts()) == set(FORBIDDEN)


@pytest.mark.parametrize("contract", FORBIDDEN)
def test_a_forbidden_import_breaks_its_contract_alone(copy: Path, contract: str) -> None:
    name, line = FORBIDDEN[contract]
    sources = (copy / name).read_text()
    (copy / name).write_text(f"{sources}\n{line}\n")
    try:
        assert broken(copy) == {contract}
    finally:
        (copy / name).write_text(sources)
