"""The main job with all it writes on a real S3 server, and its detector read from there."""

from pathlib import Path

import pytest
import ray

from data.storage import Store
from ray_jobs import pipeline
from ray_jobs.pii.detector import SAEPIIDetector
from ray_jobs.pipeline_job import run_pipeline
from ray_jobs.results.run_directory import verify
from ray_jobs.runtime.fit import connect
from tests.hosts import save_tiny_llama
from tests.ray.training import Lines

pytestmark = [pytest.mark.ray, pytest.mark.storage]

FLAGS = (
    *("--layer", "2", "--documents", "60", "--languages", "en", "--no-use-gpu"),
    *("--n-latents", "64", "--k", "4", "--aux-k", "8", "--batch-size", "64", "--max-steps", "40"),
    *("--probe-epochs", "1"),
)


def test_results_are_on_s3_whole_and_are_not_made_twice(
    s3_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Lines
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    host = save_tiny_llama(tmp_path / "host")
    configs, _ = pipeline.parse([*FLAGS, "--model", str(host), "--output-dir", s3_uri])
    connect()
    try:
        first = run_pipeline(*configs)
        assert not any("is whole" in line for line in lines.lines)
        assert run_pipeline(*configs) == first
        assert "already complete" in lines.lines[-1]
    finally:
        ray.shutdown()
    run = Store.open(s3_uri)
    assert verify(run) == len(run.read_json("manifest.json")["files"]) >= 8
    assert SAEPIIDetector.from_run(s3_uri, raw=True).redact("") == ""
    assert SAEPIIDetector.from_run(s3_uri).redact("") == ""
