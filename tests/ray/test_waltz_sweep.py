"""Sweeps of WaltzRL on a real Ray: a killed worker, a bad trial, spent money."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from data.storage import Store
from ray_jobs.results.run_directory import verify
from ray_jobs.runtime.options import JobOptions
from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.cost import Prices, Rate
from ray_jobs.sweep.plan import make_plan
from ray_jobs.waltzrl.config import WaltzConfig
from ray_jobs.waltzrl.datasets.splits import open_prompts
from ray_jobs.waltzrl.models.world import WorldModelSize, build_world_model
from ray_jobs.waltzrl.search_space import job_spec
from ray_jobs.waltzrl.trials import sweep_waltz
from tests.ray.submitted import run_and_kill_one
from tests.ray.waltz_rig import AGENTS, SHORT, weights

pytestmark = [
    pytest.mark.ray,
    # DeepSpeed uses what PyTorch 2.13 deprecates.
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning"),
]


@pytest.fixture
def local_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> WaltzConfig:
    folder = tmp_path_factory.mktemp("model")
    build_world_model(folder, seed=0, size=WorldModelSize(steps=60))
    return replace(SHORT, model=str(folder))


def trials_of(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "sweep.json").read_text())["trials"]


def committed(folder: Path) -> list[Path]:
    """Checkpoints of stage 2 of all trials."""
    return list(folder.glob("trials/*/*/checkpoints/stage-2/*/COMMITTED.json"))


def check_best(folder: Path) -> None:
    """`best/` is as the directory of any other run."""
    assert verify(Store.open(str(folder / "best"))) > 5
    rows = json.loads((folder / "best" / "evaluation.json").read_text())
    assert rows["waltzrl"]["asr"]["value"] is not None
    assert all(weights(folder / "best", agent) for agent in AGENTS)
    assert "a trial of a sweep" in (folder / "best" / "report.html").read_text()


def test_a_submitted_sweep_under_asha_outlives_a_killed_worker_and_a_bad_trial(
    base: WaltzConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Ray reads the mode once, at its first import: tests run without tokens, and so must this Ray.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    # The recipe's intervals are longer than these stages: a trial has its own.
    flags = (
        *("--recipe=toy", f"--model={base.model}", f"--output-dir={tmp_path}", "--json"),
        *("--space=learning_rate=1e-3,2e-3,1e30", "--trials=3", "--checks=3"),
        *("--reduction-factor=2", "--max-concurrent=1", "--price-cents-per-hour=100"),
        *("--stage1-steps=4", "--max-steps=6", "--batch-size=9", "--cpus-per-worker=1"),
        *("--validation-prompts=30", "--test-prompts=30"),
    )

    def with_a_checkpoint(text: str) -> int | None:
        found = re.findall(r"runs as process (\d+)", text)
        return int(found[-1]) if found and committed(tmp_path) else None

    said = run_and_kill_one("ray_jobs.waltzrl.sweep", flags, with_a_checkpoint, 300)
    assert re.search(r"trial \d+ lost its worker", said), said
    assert re.search(r"resuming from checkpoint step-\S+ \(step [246]\)", said), said
    trials = trials_of(tmp_path)
    states = {trial["point"]["learning_rate"]: trial["state"] for trial in trials}
    assert states.pop(1e30) == "failed"
    assert "finished" in states.values() and set(states.values()) <= {"finished", "stopped"}
    for trial in trials:
        steps = [(r["check"], r["step"] - 4) for r in trial["reports"]]
        assert steps == [(1, 2), (2, 4), (3, 6)][: len(steps)]
        assert trial["planned_steps"] in (4 + 6, None)
    result = json.loads(re.findall(r"^\{.*\}$", said, re.M)[-1])
    best = next(trial for trial in trials if trial["point"] == result["best"])
    assert result["best_metric"] == best["reports"][-1]["faults"]
    check_best(tmp_path)
    run = json.loads((tmp_path / "best" / "manifest.json").read_text())["run"]
    assert run["waltzrl"]["learning_rate"] == result["best"]["learning_rate"] and run["model"]
    page = (tmp_path / "sweep.html").read_text()
    assert "one in 2 of those" in page and "plateau rule" not in page


def test_spent_money_leaves_the_best_so_far_and_more_of_it_goes_on_from_there(
    base: WaltzConfig, tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
):
    def rate(_: Prices) -> Rate:
        """What has been reported and saved costs everything."""
        begun = (tmp_path / "sweep.json").exists()
        reported = begun and any(trial["reports"] for trial in trials_of(tmp_path))
        return Rate(1e12 if reported and committed(tmp_path) else 0.0)

    def sweep(config: SweepConfig) -> dict[str, Any]:
        plan = make_plan(job_spec(long, config, len(prompts.train)), config)
        options = JobOptions(output_dir=str(tmp_path), price_cents_per_hour=100)
        return sweep_waltz(plan, long, prompts, options)

    monkeypatch.setattr(Prices, "rate", rate)
    monkeypatch.setattr("ray_jobs.sweep.cost.LOOK_INTERVAL_S", 0.05)
    long = replace(base, max_steps=10)
    prompts = open_prompts(long)
    config = SweepConfig(
        trials=1, space="alpha=0.3,1", metric="faults", checks=5, max_cost_cents=100
    )
    result = sweep(config)
    ledger = json.loads((tmp_path / "sweep.json").read_text())
    (first,) = ledger["trials"]
    assert ledger["ended"] == "the money is spent" and first["state"] == "waiting"
    assert result["best_metric"] == first["reports"][-1]["faults"]
    check_best(tmp_path)
    history = json.loads((tmp_path / "best" / "training_history.json").read_text())["stage_2"]
    assert history["stopped"]["reason"] == "ended from outside"
    sweep(replace(config, resume=True, max_cost_cents=None))
    (again,) = trials_of(tmp_path)
    assert again["state"] == "finished"
    assert [report["check"] for report in again["reports"]] == [1, 2, 3, 4, 5]
    assert again["reports"][: len(first["reports"])] == first["reports"]
    history = json.loads((tmp_path / "best" / "training_history.json").read_text())["stage_2"]
    assert history["stopped"]["step"] == 10
    check_best(tmp_path)
