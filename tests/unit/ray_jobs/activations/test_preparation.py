"""What is refused before texts are built and activations harvested."""

from pathlib import Path

import pytest

from data.errors import RefusedError
from ray_jobs.activations.dataset import DataConfig
from ray_jobs.activations.prepare import prepare
from ray_jobs.runtime.options import JobOptions


def test_gpus_that_no_node_has_or_will_have_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0}}])
    options = JobOptions(output_dir=str(tmp_path / "run"), use_gpu=True)
    with pytest.raises(RefusedError, match="no node has room for 1 CPU, 1 GPU, and none could"):
        prepare(DataConfig(), options, model="m", layer=1, dtype="float32", shard_rows=8)
    assert not (tmp_path / "run").exists()
