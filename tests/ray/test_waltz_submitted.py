"""WaltzRL through the job API: two workers, ZeRO 2, a real S3 server, one worker killed."""

import json
import re
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from data.storage import Store
from ray_jobs.results.run_directory import fetch, verify
from ray_jobs.waltzrl.models.world import WorldModelSize, build_world_model
from tests.ray.submitted import PROCESS, rank_1_after, run_and_kill_one
from tests.ray.waltz_rig import AGENTS

pytestmark = [pytest.mark.ray, pytest.mark.storage, pytest.mark.timeout(900)]


def test_a_submitted_training_outlives_a_killed_worker_and_leaves_all_in_the_bucket(
    s3_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ray reads the mode once, at its first import: tests run without tokens, and so must this Ray.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    build_world_model(tmp_path / "model", seed=0, size=WorldModelSize(steps=100))
    flags = (
        *("--recipe=demo", f"--model={tmp_path / 'model'}", f"--output-dir={s3_uri}"),
        *("--stage1-steps=4", "--max-steps=6", "--single-steps=2", "--batch-size=8"),
        *("--checkpoint-every-steps=2", "--eval-every-steps=6"),
        *("--validation-prompts=30", "--test-prompts=30"),
        *("--num-workers=2", "--cpus-per-worker=1", "--json"),
    )
    victim = rank_1_after(r"checkpoint of step \d+ committed")
    said = run_and_kill_one("ray_jobs.waltzrl.train", flags, victim, 600)
    assert re.search(r"resuming from checkpoint step-\d+", said), said
    assert len({process for _, process in PROCESS.findall(said)}) == 4
    summary = json.loads(re.findall(r"^\{.*\}$", said, re.M)[-1])
    assert summary["steps"] == 6
    run = Store.open(s3_uri)
    assert verify(run) > 0
    history = run.read_json("training_history.json")
    assert history["stage_1"]["curves"]["steps"] == [1, 2, 3, 4]
    assert history["stage_2"]["curves"]["steps"] == [1, 2, 3, 4, 5, 6]
    for agent in AGENTS:
        fetch(run, [f"{agent}/"], tmp_path / "fetched")
        AutoModelForCausalLM.from_pretrained(tmp_path / "fetched" / agent)
