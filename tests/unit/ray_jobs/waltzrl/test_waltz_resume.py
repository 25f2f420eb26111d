"""A resume that is not one says what differs."""

from pathlib import Path
from typing import Any

import pytest

from data.errors import DataError
from data.storage import Store
from ray_jobs.checkpoint import CheckpointStore
from ray_jobs.waltzrl.config import WaltzConfig
from ray_jobs.waltzrl.datasets.splits import open_prompts
from ray_jobs.waltzrl.job import run_identity
from ray_jobs.waltzrl.models.base import BaseModel
from ray_jobs.waltzrl.training.restarts import check_resume, checkpoint_store, warn_of_new_start

IDENTITY: dict[str, Any] = {"waltzrl": {"beta": 0.01, "seed": 0}, "model": "m", "prompts": "p"}


@pytest.fixture
def storage(tmp_path: Path) -> Store:
    """One that has a checkpoint of IDENTITY."""
    storage = Store.open(str(tmp_path))
    store = CheckpointStore(checkpoint_store(storage, IDENTITY).child("stage-1"))
    store.save(5, {"step": 5}, attempt="a", metadata={**IDENTITY, "stage": 1})
    return storage


def test_the_same_run_resumes(storage: Store):
    check_resume(storage, IDENTITY)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"waltzrl": {"beta": 0.1, "seed": 0}}, r"\(beta: 0.01 there, 0.1 here\)"),
        ({"prompts": "q"}, r"\(other prompts\)"),
        ({"model": "n", "prompts": "q"}, r"\(other base model or tokenizer, other prompts\)"),
    ],
)
def test_another_run_is_refused_in_one_line(storage: Store, changed: dict[str, Any], said: str):
    with pytest.raises(DataError, match=said) as caught:
        check_resume(storage, IDENTITY | changed)
    assert "\n" not in str(caught.value)


def test_checkpoints_of_a_version_with_other_field_names_are_resumed_from(storage: Store):
    before = IDENTITY | {"waltzrl": {"dataset": "d", "validation_interval": 9}}
    run = checkpoint_store(storage, before)
    CheckpointStore(run.child("stage-1")).save(5, {}, attempt="a", metadata=before)
    now = IDENTITY | {"waltzrl": {"data": "d", "eval_every_steps": 9}}
    assert checkpoint_store(storage, now).uri == run.uri
    check_resume(storage, now)
    with pytest.raises(DataError, match=r"\(eval_every_steps: 9 there, 8 here\)"):
        check_resume(storage, IDENTITY | {"waltzrl": {"data": "d", "eval_every_steps": 8}})


def test_a_start_beside_another_runs_checkpoints_is_said(storage: Store, tmp_path: Path, caplog):
    warn_of_new_start(storage, IDENTITY)
    warn_of_new_start(Store.open(str(tmp_path / "empty")), IDENTITY)
    assert not caplog.records
    warn_of_new_start(storage, IDENTITY | {"prompts": "q"})
    assert "of another run (other prompts): this one starts anew" in caplog.text


def test_nothing_to_resume_from(tmp_path: Path):
    with pytest.raises(DataError, match="no checkpoint of a WaltzRL run"):
        check_resume(Store.open(str(tmp_path / "empty")), IDENTITY)


def test_what_is_advised_for_memory_makes_no_other_run():
    prompts, model = open_prompts(WaltzConfig()), BaseModel("m", "0" * 64)
    mine = run_identity(WaltzConfig(), model, prompts)
    advised: dict[str, Any] = {"zero_stage": 3, "offload_optimizer": True}
    advised |= {"gradient_checkpointing": True, "gradient_accumulation": 4}
    assert run_identity(WaltzConfig(**advised), model, prompts) == mine
    assert run_identity(WaltzConfig(max_answer_tokens=9), model, prompts) != mine
