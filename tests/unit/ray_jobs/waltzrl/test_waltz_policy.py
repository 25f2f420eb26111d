"""The DeepSpeed engine against plain PyTorch, for every ZeRO stage."""

import pytest
import torch

from ray_jobs.waltzrl.algorithm.loss import action_batch, action_logprobs
from ray_jobs.waltzrl.algorithm.policy import Policy, Reference
from tests.unit.ray_jobs.waltzrl import policy_rig as rig

pytestmark = [
    # DeepSpeed uses what PyTorch 2.13 deprecates.
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning"),
]

CPU = torch.device("cpu")


@pytest.mark.parametrize("stage", range(4))
def test_one_process_trains_like_plain_pytorch(stage: int):
    policy = Policy(rig.tiny_llama(), rig.options(stage))
    rig.train(policy, range(3))
    rig.close(policy.weights(), rig.plain_training(3), atol=1e-5)
    policy.close()


@pytest.mark.parametrize("stage", range(4))
def test_accumulation_over_any_number_of_parts_is_one_step(stage: int):
    whole, parts = (Policy(rig.tiny_llama(), rig.options(stage)) for _ in range(2))
    norms = rig.train(whole, range(1)), rig.train(parts, range(1), parts=3)
    if stage:
        assert norms[0] == pytest.approx(norms[1])
    # Adam's first step is the gradient's sign where it is not tiny: exact up to a few of those.
    rig.close(parts.weights(), whole.weights(), atol=1e-3)
    assert parts.updates == 1


@pytest.mark.parametrize("stage", range(4))
def test_one_process_goes_on_bit_for_bit(stage: int):
    policy = Policy(rig.tiny_llama(), rig.options(stage))
    rig.train(policy, range(2))
    saved = policy.state()
    expected_norms = rig.train(policy, range(2, 4))
    expected = policy.state()
    resumed = Policy(rig.tiny_llama(seed=5), rig.options(stage), restored=saved)
    assert rig.train(resumed, range(2, 4)) == expected_norms
    assert rig.same_bits(resumed.state(), expected) and resumed.updates == 4


@pytest.mark.parametrize(
    ("stage", "offload"), [(1, False), (2, False), (3, False), (2, True), (3, True)]
)
def test_bf16_keeps_float32_masters_through_a_resume(stage: int, offload: bool):
    setting = rig.options(stage, dtype="bfloat16", offload_optimizer=offload)
    policy = Policy(rig.tiny_llama(), setting)
    rig.train(policy, range(2))
    saved = policy.state()
    assert any(not torch.equal(w, w.bfloat16().float()) for w in saved["weights"].values())
    rig.train(policy, range(2, 4))
    resumed = Policy(rig.tiny_llama(seed=5), setting, restored=saved)
    rig.train(resumed, range(2, 4))
    assert rig.same_bits(resumed.state(), policy.state())


@pytest.mark.parametrize(("before", "after"), [(0, 3), (3, 2), (2, 0)])
def test_a_run_may_go_on_with_another_zero_stage(before: int, after: int):
    policy = Policy(rig.tiny_llama(), rig.options(before))
    rig.train(policy, range(2))
    resumed = Policy(rig.tiny_llama(seed=5), rig.options(after), restored=policy.state())
    rig.train(resumed, range(2, 4))
    rig.close(resumed.weights(), rig.plain_training(4), atol=1e-5)


@pytest.mark.parametrize("stage", [0, 3])
def test_a_reference_is_frozen_and_gives_the_models_logprobs(stage: int):
    batch = rig.batch(0)
    expected = action_logprobs(rig.tiny_llama(), batch, 0.7)
    reference = Reference(rig.tiny_llama(), rig.options(stage), CPU)
    got = reference.logprobs(batch, 0.7)
    torch.testing.assert_close(got, expected.detach(), atol=1e-6, rtol=0)
    assert not got.requires_grad
    with reference.gathered() as model:
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert model.lm_head.weight.shape == (rig.VOCABULARY, 24)


def test_padding_changes_no_logprob():
    pairs = rig.sequences(1, 5)
    model = rig.tiny_llama()
    together = action_logprobs(model, action_batch(pairs, rig.PAD, CPU), 1.0)
    for row, pair in enumerate(pairs):
        alone = action_logprobs(model, action_batch([pair], rig.PAD, CPU), 1.0)
        length = len(pair[1])
        torch.testing.assert_close(together[row, :length], alone[0], atol=1e-5, rtol=0)
        assert not together[row, length:].any()
