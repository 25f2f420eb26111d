"""What does not fit into memory is computed in smaller parts, and nothing else changes."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data.errors import ConfigError, MicroBatchError
from ray_jobs.waltzrl.algorithm.learner import Learner
from ray_jobs.waltzrl.algorithm.policy import Policy, Reference
from ray_jobs.waltzrl.config import WaltzConfig
from ray_jobs.waltzrl.training.loop import WaltzTask
from ray_jobs.waltzrl.training.restarts import fit_in_memory
from tests.unit.ray_jobs.waltzrl import policy_rig as rig
from tests.unit.ray_jobs.waltzrl.test_waltz_learner import SETTINGS, learner, samples

pytestmark = [
    # DeepSpeed uses what PyTorch 2.13 deprecates.
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning"),
]


@contextmanager
def memory_for(rows: int) -> Iterator[list[int]]:
    """Policies have room for `rows` samples at once; gives the sizes that were tried."""
    whole, tried = Policy.logprobs, []

    def logprobs(self, batch, temperature):
        tried.append(len(batch.ids))
        if len(batch.ids) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, batch, temperature)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Policy, "logprobs", logprobs)
        yield tried


def task(config: WaltzConfig) -> WaltzTask:
    return WaltzTask(
        config=config,
        model=SimpleNamespace(),
        prompts=SimpleNamespace(),
        checkpoints=SimpleNamespace(),
        output=SimpleNamespace(),
        cache_dir=Path(),
        price_cents_per_hour=None,
        identity={},
    )


def test_the_error_says_how_many_samples_were_too_many():
    with memory_for(3), pytest.raises(MicroBatchError) as caught:
        learner(replace(SETTINGS, parts=2)).learn(samples(9), 9, 1e-3)
    assert caught.value.rows == 5
    with memory_for(3):
        learner(replace(SETTINGS, parts=3)).learn(samples(9), 9, 1e-3)


def test_halved_until_it_fits_and_the_effective_batch_stays(caplog: pytest.LogCaptureFixture):
    with memory_for(2) as tried:

        def fit(smaller: WaltzTask) -> None:
            made = learner(replace(SETTINGS, parts=smaller.config.gradient_accumulation))
            assert smaller.config.batch_size == 8
            made.preflight(8, 5, 6)

        with caplog.at_level(logging.WARNING):
            fit_in_memory(fit, task(WaltzConfig(batch_size=8)))
    assert tried == [8, 4, *[2] * 8]  # four parts, scored and updated
    assert [record.args[1] for record in caplog.records] == [2, 4]
    assert "the effective batch stays 8" in caplog.text


def test_when_not_even_one_sample_fits_it_says_what_else_helps():
    def fit(_: WaltzTask) -> None:
        raise MicroBatchError(1)

    with pytest.raises(ConfigError, match="^zero_stage: one sample at a time does not fit"):
        fit_in_memory(fit, task(WaltzConfig()))


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_memory_preflight_has_the_size_that_was_asked_for_and_changes_nothing(stage: int):
    found = []
    for preflight in (False, True):
        reference = Reference(rig.tiny_llama(), rig.options(stage), torch.device("cpu"))
        policy = Policy(rig.tiny_llama(), rig.options(stage))
        made = Learner(policy, reference, replace(SETTINGS, parts=2), rig.PAD)
        made.learn(samples(), 8, 1e-2)
        if preflight:
            with memory_for(4) as tried:
                made.preflight(8, 20, 11)
            assert tried == [4] * 4
        made.learn(samples(), 8, 1e-2)
        found.append(policy.state())
    assert rig.same_bits(*found)
