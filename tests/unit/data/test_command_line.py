"""A command's own lines are printed, whether its module is imported or run with -m."""

import os
import subprocess
import sys
from pathlib import Path

import data
from data.command_line import module_logger

MODULE = """
import logging, sys
from data.command_line import module_logger

logging.getLogger("jobs").addHandler(logging.StreamHandler(sys.stdout))
logging.getLogger("jobs").setLevel(logging.INFO)
logger = module_logger(__name__)
logger.info("trained by %s", logger.name)
"""


def run_python(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(data.__file__).parents[1])}
    ran = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout


def test_an_imported_module_has_the_logger_of_its_name():
    assert module_logger("ray_jobs.sae.train").name == "ray_jobs.sae.train"


def test_a_module_run_with_m_logs_below_its_package(tmp_path):
    package = tmp_path / "jobs"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "train.py").write_text(MODULE)

    assert run_python(tmp_path, "-m", "jobs.train") == "trained by jobs.train\n"


def test_a_script_run_by_its_path_keeps_the_name_main(tmp_path):
    (tmp_path / "script.py").write_text(MODULE + "print(logger.name)")

    assert run_python(tmp_path, "script.py") == "__main__\n"
