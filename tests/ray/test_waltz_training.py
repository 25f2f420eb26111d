"""WaltzRL on a real local Ray: whatever the workers, and going on bit for bit after a kill."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import ray
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.errors import ConfigError, DataError, NonFiniteError
from data.storage import Store
from ray_jobs.checkpoint import CheckpointStore
from ray_jobs.results.history import trained_by
from ray_jobs.results.run_directory import code_identity
from ray_jobs.runtime.fit import WorkerContext
from ray_jobs.waltzrl.datasets.splits import open_prompts
from ray_jobs.waltzrl.evaluation.metrics import SPLITS
from ray_jobs.waltzrl.job import summary, write_report
from ray_jobs.waltzrl.models.world import WorldModelSize, build_world_model
from ray_jobs.waltzrl.training.loop import Run
from tests.ray.training import Lines
from tests.ray.waltz_rig import (
    AGENTS,
    SHORT,
    curves,
    model_in,
    run_alone,
    same_agents,
    short_of_memory,
    task_of,
    train,
    weights,
)

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(900),
    # DeepSpeed uses what PyTorch 2.13 deprecates.
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that speaks the world's language, if badly: quick to train."""
    folder = tmp_path_factory.mktemp("model")
    build_world_model(folder, seed=0, size=WorldModelSize(steps=100))
    return folder


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stage 1 and stage 2, each by itself, without Ray."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for stage in ("1", "2"):
        run_alone(replace(SHORT, stage=stage), model_in(base), folder, f"code of {stage}")
    return folder


class Killed(NamedTuple):
    folder: Path
    processes: list[int]
    lines: list[str]
    sealed: list[bool]
    """Whether there was a manifest, each time that a checkpoint was committed."""


@pytest.fixture(scope="module")
def killed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """Both stages on Ray, the worker killed in each of them."""
    run = Killed(tmp_path_factory.mktemp("killed"), [], [], [])
    lines = Lines()

    def kill_twice(line: str) -> None:
        if "checkpoint of step" in line:
            run.sealed.append((run.folder / "manifest.json").exists())
        if "checkpoint of step" in line and len(run.processes) < 2:
            run.processes.append(lines.workers()[0])
            os.kill(run.processes[-1], signal.SIGKILL)

    lines.on_line = kill_twice
    run.folder.mkdir(exist_ok=True)
    (run.folder / "not-mine.txt").write_text("lay here before")
    (run.folder / "manifest.json").write_text('{"files": {}, "run": {"of": "another"}}')
    train(run.folder, base, SHORT)
    lines.on_line = lambda line: None  # Other trainings speak in this process too.
    run.lines.extend(lines.lines)
    return run


def test_a_killed_worker_goes_on_bit_for_bit(killed: Killed, undisturbed: Path):
    assert len(set(killed.processes)) == 2
    assert sum("resuming from checkpoint" in line for line in killed.lines) >= 2
    assert curves(killed.folder) == curves(undisturbed)
    assert same_agents(killed.folder, undisturbed)


def test_it_leaves_the_users_files_and_both_agents_open(killed: Killed):
    folder = killed.folder
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["run"]["trained_by"] == [code_identity()["code_sha256"]]
    sealed = manifest["files"]
    assert killed.sealed and not any(killed.sealed)
    assert "not-mine.txt" not in sealed and (folder / "not-mine.txt").exists()
    pages = ("report.html", "evaluation.json", "verdict.json", "training_history.json")
    files = [f"waltzrl_{agent}_stage2.pt" for agent in AGENTS]
    assert set(sealed) == {*pages, *files} | {
        str(path.relative_to(folder))
        for part in (*AGENTS, "comparison/stage_1_feedback")
        for path in (folder / part).iterdir()
    }
    assert AutoTokenizer.from_pretrained(folder / "feedback").chat_template
    for agent in AGENTS:
        model = AutoModelForCausalLM.from_pretrained(folder / agent)
        exported = weights(folder, agent)
        for name, value in model.named_parameters():
            assert torch.equal(value, exported[name])
        assert "asr" in (folder / agent / "README.md").read_text()
    drifts = [v for name, v in curves(folder).items() if name[1].startswith("drift")]
    assert drifts and max(max(each) for each in drifts) < 1e-5


def test_a_whole_run_is_not_repeated(base: Path, killed: Killed, lines: Lines):
    train(killed.folder, base, SHORT)
    assert any(": already complete" in line for line in lines.lines)
    assert not lines.workers()


def test_both_agents_changed_and_the_feedback_agent_in_both_stages(undisturbed: Path):
    history = json.loads((undisturbed / "training_history.json").read_text())
    assert [history[s]["stopped"]["step"] for s in ("stage_1", "stage_2")] == [4, 6]
    assert trained_by(history) == ["code of 1", "code of 2"]
    # Held to where the stage started: at its first step an agent is its own reference.
    for stage, agent in [("stage_1", "feedback")] + [("stage_2", agent) for agent in AGENTS]:
        kl = history[stage]["curves"][f"kl_{agent}"]
        assert kl[0] < 1e-9 < kl[-1]
    one, other = (weights(undisturbed, agent) for agent in AGENTS)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_stage_one_alone_leaves_its_numbers_and_a_page(undisturbed: Path):
    config = replace(SHORT, stage="1")
    write_report(config, open_prompts(config), "1, ZeRO 0, float32", Store.open(str(undisturbed)))
    assert "stage 2 is yet to come" in (undisturbed / "stage_1.html").read_text()
    found = summary(Store.open(str(undisturbed)), "1")
    assert found["steps"] == 4 and found["kl"] > 0 and found["format_rate"] is not None
    assert summary(Store.open(str(undisturbed)), "2")["steps"] == 6  # stage 2's stay


def test_what_is_measured_has_intervals_by_kind_of_prompt(undisturbed: Path):
    rows = json.loads((undisturbed / "evaluation.json").read_text())
    for agent in AGENTS:
        kl, drift = (rows["waltzrl"][f"{what}_{agent}"] for what in ("kl", "drift"))
        assert 0 < kl["low"] <= kl["value"] <= kl["high"] and drift["high"] < 1e-5
        parts = [rows["waltzrl"][f"kl_{agent}_{split}"] for split in SPLITS]
        assert min(p["value"] for p in parts) < kl["value"] < max(p["value"] for p in parts)
        assert rows["untrained"][f"kl_{agent}"]["value"] is None
    verdict = json.loads((undisturbed / "verdict.json").read_text())
    assert verdict["dir_repair"] == rows["waltzrl"]["dir_repair"]


def test_two_workers_of_zero_3_one_short_of_memory_take_the_same_first_steps(
    base: Path, undisturbed: Path, tmp_path: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch
):
    """Rounding may later flip a sampled token, so the curves are compared while they agree."""
    assert SHORT.batch_size % 2  # the workers have uneven shares, of five samples and four
    monkeypatch.setattr("ray_jobs.waltzrl.job.train_loop", short_of_memory)
    train(tmp_path, base, replace(SHORT, zero_stage=3), num_workers="2", max_failures=0)
    assert any("5 samples at once do not fit" in line for line in lines.lines)
    one = curves(undisturbed, "gradient")
    several = curves(tmp_path, "gradient_norm")
    for stage in ("stage_1", "stage_2"):
        assert set(several.pop((stage, "gradient_accumulation"))) == {2}
    assert one.keys() == several.keys()
    for name, values in one.items():
        if name[0] == "stage_1":
            assert several[name][:2] == pytest.approx(values[:2], abs=2e-4), name


def test_feedback_that_is_never_json_is_said_and_trains_on(
    base: Path, tmp_path: Path, lines: Lines
):
    cut_short = replace(SHORT, max_feedback_tokens=3)
    run_alone(cut_short, model_in(base), tmp_path)
    assert any("not one feedback is the JSON object" in line for line in lines.lines)
    rows = json.loads((tmp_path / "evaluation.json").read_text())
    assert rows["waltzrl"]["format_rate"]["value"] == rows["waltzrl"]["ftr"]["value"] == 0
    assert curves(tmp_path)["stage_2", "reward_feedback"] == [0.0] * 6


def test_what_is_not_finite_ends_the_run_and_the_last_checkpoint_is_finite(
    base: Path, tmp_path: Path
):
    wild = replace(SHORT, learning_rate=1e30, warmup_steps=0, checkpoint_every_steps=1)
    with pytest.raises(NonFiniteError, match="the last checkpoint stays") as caught:
        run_alone(wild, model_in(base), tmp_path)
    assert "\n" not in str(caught.value)
    store = CheckpointStore(Store.open(str(tmp_path / "checkpoints" / "stage-1")))
    info, state = store.load_newest() or pytest.fail("no checkpoint is left")
    assert info.step < wild.stage1_steps
    kept = state["agents"]["feedback"]["weights"].values()
    assert all(weight.isfinite().all() for weight in kept)
    assert not (tmp_path / "evaluation.json").exists()


def test_a_resume_with_other_code_is_said_and_remembered(base: Path, tmp_path: Path, lines: Lines):
    config, model = replace(SHORT, stage="1"), model_in(base)

    def stop(_: object) -> None:
        raise DataError("stopped from outside")

    with pytest.raises(DataError, match="stopped"):
        Run(
            task_of(config, model, tmp_path, "old"), WorkerContext(0, 1, torch.device("cpu"), stop)
        ).go()
    assert not any("other code" in line for line in lines.lines)
    run_alone(config, model, tmp_path, "new")
    assert "waltz  resuming with other code than took the earlier steps" in lines.lines
    history = json.loads((tmp_path / "stage_1_history.json").read_text())
    assert history["stage_1"]["code_sha256"] == trained_by(history) == ["old", "new"]


def test_more_workers_than_prompts_are_refused_before_anything_starts(base: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="num_workers: 10 workers share 9 prompts a step"):
        train(tmp_path, base, SHORT, num_workers="10")
    assert not (tmp_path / "checkpoints").exists()


def test_stage_two_alone_needs_a_stage_one(base: Path, tmp_path: Path):
    with pytest.raises(DataError, match="no stage 1 of this configuration"):
        run_alone(replace(SHORT, stage="2"), model_in(base), tmp_path)


def test_a_cadence_that_never_comes_is_refused_before_anything_starts(base: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="checkpoint_every_steps: 500 steps would never come"):
        train(tmp_path, base, replace(SHORT, checkpoint_every_steps=500))
    assert not (tmp_path / "checkpoints").exists()
