"""Every command of the README: answers before anything heavy is imported, in the same words."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import ray_jobs
from data.errors import DataError
from ray_jobs import pipeline
from ray_jobs.pii import train as pii_train
from ray_jobs.sae import sweep as sae_sweep
from ray_jobs.sae import train as sae_train
from ray_jobs.waltzrl import sweep as waltz_sweep
from ray_jobs.waltzrl import train as waltz_train

ROOT = Path(ray_jobs.__file__).parents[1]
TRAININGS = {
    "ray_jobs.pipeline": pipeline,
    "ray_jobs.sae.train": sae_train,
    "ray_jobs.sae.sweep": sae_sweep,
    "ray_jobs.pii.train": pii_train,
    "ray_jobs.waltzrl.train": waltz_train,
    "ray_jobs.waltzrl.sweep": waltz_sweep,
}
COMMANDS = (
    *TRAININGS,
    "ray_jobs.waltzrl.evaluate",
    "ray_jobs.pii.detector",
    "ray_jobs.pii.evaluate",
    "ray_jobs.sae.convert",
    "ray_jobs.demo",
    "data.build",
    "data.storage",
)
HEAVY = {"torch", "ray", "transformers", "pandas", "matplotlib", "deepspeed"}
CPU_S = 2.0
"""A quarter of a second is usual; the import of PyTorch alone takes more than two."""


def answer(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `python -m ...`, which takes little time and imports."""
    command = [sys.executable, "-X", "importtime", "-m", *arguments]
    before = os.times()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    after = os.times()
    used_s = after.children_user + after.children_system
    assert used_s - before.children_user - before.children_system < CPU_S
    lines = done.stderr.splitlines(keepends=True)
    imported = {line.split("|")[-1].strip() for line in lines if line.startswith("import time:")}
    assert not HEAVY & {name.partition(".")[0] for name in imported}
    stderr = "".join(line for line in lines if not line.startswith("import time:"))
    return done.returncode, done.stdout, stderr


def test_the_readme_names_no_command_that_is_not_tested() -> None:
    readme = (ROOT / "README.md").read_text()
    named = re.findall(r"\b(?:python -m |`)((?:ray_jobs|data)\.[a-z_.]+[a-z])(?=[` ])", readme)
    assert {name for name in named if (ROOT / name.replace(".", "/")).with_suffix(".py").exists()}
    modules = {name for name in named if f"python -m {name}" in readme}
    assert modules <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_a_typo_are_answered_at_once(command: str) -> None:
    code, out, _ = answer(command, "--help")
    assert code == 0 and out.startswith("usage: ")
    code, _, err = answer(command, "--typo=1")
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize("command", TRAININGS)
def test_the_values_of_a_recipe_are_printed_with_the_flags_applied(command: str) -> None:
    code, out, _ = answer(command, "--print-config", "--seed", "7")
    assert code == 0
    printed = json.loads(out)
    parts = [part for part in printed.values() if isinstance(part, dict)]
    assert {part["seed"] for part in parts if "seed" in part} == {7}


@pytest.mark.parametrize("command", TRAININGS)
def test_a_missing_file_is_found_before_ray_starts(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_jobs.runtime.fit.connect", lambda: pytest.fail("too late"))
    sae = tmp_path / "sae.pt"
    sae.touch()
    more = ["--sae", str(sae)] if command == "ray_jobs.pii.train" else []
    with pytest.raises(DataError, match="gone.jsonl: no such file") as caught:
        TRAININGS[command].main(
            ["--data", f"{tmp_path}/gone.jsonl", "--output-dir", str(tmp_path), *more]
        )
    assert "\n" not in str(caught.value)


def test_a_recipes_limit_can_be_lifted_and_older_names_are_taken() -> None:
    (sae, probe, _, _), _ = pipeline.parse(["--max-steps", "none", "--num-epochs", "9"])
    assert (sae.max_steps, sae.epochs, probe.epochs) == (None, 9, 9)


SAE_RESULT = {"fvu": 0.5, "dead_share": 0.0, "steps": 7, "stopped_early": False}
SWEEP_RESULT = {"best": {"k": 3}, "best_metric": 0.25}
F1 = {"overall": 0.5, "by_language": {"en": 0.5}}
LAST_LINES = {
    "ray_jobs.pipeline": (
        "ray_jobs.pipeline_job.run_pipeline",
        SAE_RESULT | {"f1": {"latents": F1, "raw": F1}},
        "file://{run}/manifest.json",
    ),
    "ray_jobs.sae.train": ("ray_jobs.sae.job.run", SAE_RESULT, "sae    {run}/sae_final.pt"),
    "ray_jobs.sae.sweep": (
        "ray_jobs.sae.trials.sweep_sae",
        SWEEP_RESULT,
        "sweep  {run}/best, {run}/sweep.html",
    ),
    "ray_jobs.waltzrl.train": (
        "ray_jobs.waltzrl.job.train_waltz",
        {"asr": 0.5, "kl": None},
        "waltz  file://{run}",
    ),
    "ray_jobs.waltzrl.sweep": (
        "ray_jobs.waltzrl.trials.sweep_waltz",
        SWEEP_RESULT,
        "sweep  {run}/best, {run}/sweep.html",
    ),
    "ray_jobs.waltzrl.evaluate": (
        "ray_jobs.waltzrl.evaluation_job.evaluate",
        {},
        "waltz  file://{run}",
    ),
}
"""What a command calls, what that gives, and the last line that the command then prints."""


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("command", LAST_LINES)
def test_a_command_run_with_m_prints_its_result(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job, result, line = LAST_LINES[command]
    monkeypatch.setattr("ray_jobs.runtime.fit.connect", lambda: None)
    monkeypatch.setattr(job, lambda *_, **__: result)
    monkeypatch.setattr("ray_jobs.waltzrl.evaluation.report.text_table", lambda _: [])
    monkeypatch.setattr(sys, "argv", [command, "--output-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(command, run_name="__main__", alter_sys=True)
    assert not ended.value.code
    assert capsys.readouterr().out.splitlines()[-1] == line.format(run=tmp_path)


def test_a_command_prints_under_the_name_of_its_module() -> None:
    # Run with -m, a module is called __main__, and a logger of that name is not a job's.
    for path in [*ROOT.glob("ray_jobs/**/*.py"), *ROOT.glob("data/**/*.py")]:
        source = path.read_text()
        if 'if __name__ == "__main__"' in source:
            assert "getLogger(__name__)" not in source, path
