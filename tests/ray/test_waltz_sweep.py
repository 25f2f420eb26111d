"""Sweeps of WaltzRL on a real local Ray: a bad trial ends alone, an interrupted one has results."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from ray_jobs.run_directory import verify
from ray_jobs.runtime import JobOptions
from ray_jobs.storage import Store
from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.job import make_plan
from ray_jobs.waltzrl.config import WaltzConfig
from ray_jobs.waltzrl.prompts_of_run import open_prompts
from ray_jobs.waltzrl.sweep import job_spec, sweep_waltz
from ray_jobs.waltzrl.trials import WaltzTrials
from ray_jobs.waltzrl.world_model import WorldModelSize, build_world_model
from tests.ray.waltz_rig import AGENTS, SHORT, model_in, weights

pytestmark = [
    pytest.mark.ray,
    # DeepSpeed uses what PyTorch 2.13 deprecates.
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning"),
]

SWEEP = SweepConfig(
    trials=2,
    space="learning_rate=1e-3,1e30",
    metric="faults",
    checks=3,
    scheduler="none",
    max_concurrent=1,
)


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> WaltzConfig:
    folder = tmp_path_factory.mktemp("model")
    build_world_model(folder, seed=0, size=WorldModelSize(steps=60))
    return replace(SHORT, model=str(folder))


def test_a_trial_that_fails_ends_alone_and_the_best_has_both_agents(
    base: WaltzConfig, tmp_path: Path
):
    prompts = open_prompts(base)
    plan = make_plan(job_spec(base, SWEEP, len(prompts.train)), SWEEP)
    result = sweep_waltz(plan, base, prompts, JobOptions(output_dir=str(tmp_path)))
    trials = json.loads((tmp_path / "sweep.json").read_text())["trials"]
    states = {trial["point"]["learning_rate"]: trial["state"] for trial in trials}
    assert states == {1e-3: "finished", 1e30: "failed"}
    reports = next(trial["reports"] for trial in trials if trial["state"] == "finished")
    stage1 = base.stage1_steps
    assert [(r["check"], r["step"] - stage1) for r in reports] == [(1, 2), (2, 4), (3, 6)]
    whole = next(trial for trial in trials if trial["state"] == "finished")
    assert whole["planned_steps"] == whole["reports"][-1]["step"] == stage1 + 6
    assert result["best"]["learning_rate"] == 1e-3
    assert result["best_metric"] == reports[-1]["faults"]
    best = tmp_path / "best"
    assert verify(Store.open(str(best))) > 5
    # As of any other run.
    run = json.loads((best / "manifest.json").read_text())["run"]
    assert run["waltzrl"]["learning_rate"] == 1e-3 and run["model"]
    assert all(weights(best, agent) for agent in AGENTS)
    rows = json.loads((best / "evaluation.json").read_text())
    assert rows["waltzrl"]["asr"]["value"] is not None
    assert "a trial of a sweep" in (best / "report.html").read_text()


def test_a_trial_that_was_stopped_leaves_the_results_of_its_checkpoint(
    base: WaltzConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ray_jobs.runtime.use_assigned_cpus", lambda: None)  # of a Ray worker
    trials = WaltzTrials(
        base, SWEEP, model_in(Path(base.model)), open_prompts(base), tmp_path / "cache", {}
    )
    folder, point = Store.open(str(tmp_path / "trial")), {"alpha": 0.3}
    assert trials.finish(point, folder) is None
    told: list[dict[str, Any]] = []

    def stop_at_the_second(report: dict[str, Any]) -> None:
        told.append(report)
        if report["check"] == 2:
            raise SystemExit

    with pytest.raises(SystemExit):
        trials.run(point, folder, stop_at_the_second)
    assert trials.finish(point, folder) == 1  # the checkpoint of the second check was not made
    history = folder.read_json("training_history.json")["stage_2"]
    assert history["stopped"]["reason"] == "ended from outside"
    assert folder.exists("report.html")
    again: list[dict[str, Any]] = []
    trials.run(point, folder, again.append)
    assert [report["check"] for report in again] == [1, 2, 3]
    assert again[:2] == told
