"""The evaluation's command on the exported folders of a run, or on a base model alone."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data.builders.waltz_world import KINDS, sample_requests
from data.errors import ConfigError, DataError
from data.storage import Store
from ray_jobs.activations.host_files import locate
from ray_jobs.results.run_directory import write_manifest
from ray_jobs.waltzrl.config import WaltzConfig
from ray_jobs.waltzrl.evaluate import main
from ray_jobs.waltzrl.evaluation.metrics import repair_line
from ray_jobs.waltzrl.evaluation.rows import TITLES
from ray_jobs.waltzrl.evaluation_job import evaluate
from ray_jobs.waltzrl.models.world import WorldModelSize, build_world_model
from ray_jobs.waltzrl.options import EvaluateOptions
from ray_jobs.waltzrl.training.export import export_agent, export_folder

KIND_WORDS = {"harmful": "unsafe", "overrefusal": "overrefusal", "benign": "safe"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("base")
    build_world_model(made, seed=0, size=WorldModelSize(hidden=48, steps=100))
    return made


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a training leaves it; the conversation agent is the base model, the others differ."""
    made = tmp_path_factory.mktemp("run")
    store, weights = Store.open(str(made)), load_file(base / "model.safetensors")
    noisy = {name: value + 0.1 * torch.randn_like(value) for name, value in weights.items()}
    export_agent(store, "conversation", base, weights, {})
    export_agent(store, "feedback", base, weights, {})
    for name in ("stage_1_feedback", "single_rl"):
        export_folder(store, f"comparison/{name}", base, noisy)
    config = WaltzConfig(model=str(base), max_answer_tokens=12, max_feedback_tokens=26)
    identity = {"waltzrl": dataclasses.asdict(config), "model": locate(str(base)).identity}
    write_manifest(store, identity)
    return made


def test_all_rows_of_a_run_on_its_own_test_prompts(run: Path, tmp_path: Path, capsys):
    main([f"--run-dir={run}", f"--output-dir={tmp_path}", "--test-prompts=30", "--json"])
    shown = capsys.readouterr().out
    rows = json.loads(shown.splitlines()[-1])
    assert list(rows) == list(TITLES)
    assert rows == json.loads((tmp_path / "evaluation.json").read_text())
    # The same weights and the same draws: nothing was mixed up on the way through the folders.
    assert rows["waltzrl"] == rows["untrained"]
    assert rows["single_rl"]["orr"] != rows["base"]["orr"]
    assert rows["frozen_conversation"]["format_rate"] != rows["untrained"]["format_rate"]
    page = (tmp_path / "report.html").read_text()
    assert all(title in page and title in shown for title in TITLES.values())
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert verdict["dir_repair"] == rows["waltzrl"]["dir_repair"]
    assert repair_line(rows["waltzrl"]) in shown and repair_line(rows["waltzrl"]) in page
    assert "The world is invented" in page and "also gave the training" in page


def test_a_base_model_alone_on_a_file(base: Path, tmp_path: Path):
    prompts = sample_requests("test", KINDS, 12, seed=1)
    rows = [{"prompt": p.text, "expected_category": KIND_WORDS[p.kind]} for p in prompts]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = EvaluateOptions(
        model=str(base),
        data=str(path),
        judge="wildguard@local:nowhere/judge",
        prompts="world",
        max_answer_tokens=12,
        output_dir=str(tmp_path / "out"),
    )
    with pytest.raises(DataError, match="nowhere/judge"):
        evaluate(options)
    assert not (tmp_path / "out").exists()
    world = dataclasses.replace(options, data="waltz-world", judge="rules", test_prompts=12)
    assert list(evaluate(world)) == ["base", "base_guard", "untrained", "oracle"]


def test_prompts_that_the_run_was_trained_on_are_left_out(run: Path, tmp_path: Path, caplog):
    trained = sample_requests("train", ("harmful", "overrefusal"), 4000, seed=0)[:5]
    fresh = sample_requests("test", KINDS, 6, seed=1)
    texts = [f"9. {p.text.upper()}" for p in trained] + [p.text for p in fresh]
    path = tmp_path / "prompts.jsonl"
    row = '{{"prompt": {}, "expected_category": "unsafe"}}\n'
    path.write_text("".join(row.format(json.dumps(text)) for text in texts))
    from ray_jobs.waltzrl.evaluation_job import _manifest, config_of, prompts_of

    options = EvaluateOptions(run_dir=str(run), data=str(path), judge="wildguard@http://j@m")
    prompts, about = prompts_of(options, config_of(options, _manifest(str(run))))
    assert {p.text for p in prompts} == {p.text for p in fresh}
    assert "6 of 6 prompts; 5 near duplicates of training prompts are left out" in about


def test_a_small_run_is_evaluated_on_as_many_prompts_as_it_tested_on(run: Path):
    from ray_jobs.waltzrl.evaluation_job import _manifest, config_of, prompts_of

    options = EvaluateOptions(run_dir=str(run))
    config = dataclasses.replace(config_of(options, _manifest(str(run))), test_prompts=30)
    assert len(prompts_of(options, config)[0]) == 30
    more = dataclasses.replace(options, test_prompts=45)
    assert len(prompts_of(more, config)[0]) == 45


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "run_dir: give --run-dir DIRECTORY, or --model NAME"),
        (["--run-dir=RUN", "--model=m"], "run_dir: give --run-dir DIRECTORY, or --model NAME"),
        (["--run-dir=TMP/none"], "no manifest.json: give the directory of a finished run"),
        (["--run-dir=RUN", "--data=TMP/none.csv", "--judge=wildguard@http://j@m"], "none.csv"),
        (["--run-dir=RUN", "--data=TMP/none.csv"], "judge: rules knows the embedded world only"),
        (["--run-dir=RUN", "--judge=wild"], "judge: 'wild' is neither rules nor"),
        (["--run-dir=RUN", "--guard=wild"], "guard: 'wild' is neither rules nor"),
        (["--run-dir=RUN", "--test-prompts=90000"], "test_prompts: test has"),
        (["--run-dir=RUN", "--rollout=http"], "rollout: 'http' is not one of hf, cb"),
        (["--run-dirr", "RUN"], "--run-dirr: unknown flag; did you mean --run-dir?"),
        (
            ["--model=TMP/nowhere", "--data=waltz-world", "--prompts=world", "--judge=rules"],
            "no such folder",
        ),
    ],
)
def test_wrong_input_is_one_line(run: Path, tmp_path: Path, argv: list[str], message: str):
    argv = [each.replace("RUN", str(run)).replace("TMP", str(tmp_path)) for each in argv]
    with pytest.raises((ConfigError, DataError)) as caught:
        main([*argv, f"--output-dir={tmp_path / 'out'}"])
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "evaluation.json").exists()


def test_a_base_model_that_is_another_is_refused(run: Path, base: Path, tmp_path: Path):
    manifest = json.loads((run / "manifest.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "manifest.json").write_text(
        json.dumps(manifest | {"run": manifest["run"] | {"model": "0" * 64}})
    )
    with pytest.raises(DataError, match="not the base model that"):
        evaluate(EvaluateOptions(run_dir=str(other), output_dir=str(tmp_path / "out")))
