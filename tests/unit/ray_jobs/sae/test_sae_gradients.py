"""TopKSAE's loss and gradients are those of plain dense autograd."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import ray_jobs.sae.kernels.topk as topk_function
from ray_jobs.sae.model import TopKSAE
from tests.dense_sae import (
    PARAMETERS,
    assert_equals_dense,
    gradients,
    random_batch,
    random_sae,
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small only lose by being shared out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@settings(max_examples=60, deadline=None)
@given(
    d_in=st.integers(1, 24),
    n_latents=st.integers(1, 80),
    k=st.integers(1, 12),
    rows=st.integers(1, 33),
    aux_k=st.integers(0, 20),
    dead_every=st.integers(1, 7),
    seed=st.integers(0, 10_000),
)
def test_loss_and_gradients_equal_dense_autograd(
    d_in: int, n_latents: int, k: int, rows: int, aux_k: int, dead_every: int, seed: int
) -> None:
    sae = random_sae(d_in, n_latents, min(k, n_latents), seed, aux_k=aux_k, dead_after_tokens=10)
    if dead_every > 1:
        sae.dead_latents.tokens_since_fired[::dead_every] = 10
    assert_equals_dense(sae, random_batch(rows, d_in, seed))


def test_gradients_equal_dense_autograd_where_the_tournament_has_several_rounds() -> None:
    sae = random_sae(16, 1024, 4, aux_k=8, dead_after_tokens=10)
    sae.dead_latents.tokens_since_fired[::2] = 10
    out = assert_equals_dense(sae, random_batch(64, 16))
    pre = torch.relu((out.x - sae.b_dec) @ sae.W_enc.T + sae.b_enc)
    torch.testing.assert_close(out.values.sort(descending=True).values, pre.topk(4).values)


def test_gradients_equal_dense_autograd_where_the_batch_takes_several_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(topk_function, "_BLOCK_ELEMENTS", {"cpu": 1})
    monkeypatch.setattr(topk_function, "_SMALLEST_BLOCK", 7)
    sae = random_sae(16, 64, 4, aux_k=8, dead_after_tokens=10)
    sae.dead_latents.tokens_since_fired[::2] = 10
    x = random_batch(30, 16)
    with torch.no_grad():
        blocks = topk_function.score_blocks(x, sae.W_enc, sae.b_enc, torch.float64)
        assert [samples for samples, _ in blocks][-1] == slice(28, 30)
    assert_equals_dense(sae, x)


def test_gradients_equal_dense_autograd_with_ties_and_shut_latents() -> None:
    sae = random_sae(6, 40, 5)
    sae.W_enc.data[20:] = sae.W_enc.data[:20]
    sae.b_enc.data[20:] = sae.b_enc.data[:20]
    x = random_batch(50, 6)
    assert_equals_dense(sae, x)
    pre = torch.relu((x - sae.b_dec) @ sae.W_enc.T + sae.b_enc)
    assert (pre.sort(dim=1, descending=True).values[:, :5].diff() == 0).any(), "no ties tested"
    sae.b_enc.data -= 3.0
    assert (assert_equals_dense(sae, x).values == 0).any(), "no shut latent tested"


def test_a_scaled_loss_scales_every_gradient() -> None:
    sae = random_sae(8, 32, 4, aux_k=4, dead_after_tokens=1)
    sae.dead_latents.tokens_since_fired[:9] = 1
    x = random_batch(16, 8)
    once, scaled = gradients(sae, sae(x).loss), gradients(sae, -3.0 * sae(x).loss)
    for name in PARAMETERS:
        torch.testing.assert_close(scaled[name], -3.0 * once[name])


def test_the_auxiliary_loss_reaches_the_encoder_rows_of_dead_latents() -> None:
    sae = random_sae(8, 64, 2, aux_k=16, dead_after_tokens=1000)
    sae.b_enc.data[:32] = 0.0
    sae.b_enc.data[32:] = 50.0  # the first half never makes the top-k
    x = random_batch(256, 8)
    assert gradients(sae, sae(x).loss)["W_enc"][:32].abs().max() == 0
    sae.dead_latents.update(torch.arange(64) >= 32, tokens=1000)
    assert_equals_dense(sae, x)
    revived = gradients(sae, sae(x).loss)
    assert (revived["W_enc"][:32].abs().amax(dim=1) > 0).all()
    assert (revived["b_enc"][:32].abs() > 0).all()
    assert (revived["W_dec"][:32].abs().amax(dim=1) > 0).all()


def test_shares_of_a_batch_add_up_to_the_whole() -> None:
    sae = random_sae(8, 64, 4, aux_k=8, dead_after_tokens=1)
    sae.dead_latents.tokens_since_fired[::3] = 1
    x = random_batch(37, 8)
    whole = sae(x)
    shares = [sae(part, global_batch_size=37) for part in (x[:5], x[5:5], x[5:])]
    torch.testing.assert_close(sum(share.loss for share in shares), whole.loss)
    expected = gradients(sae, whole.loss)
    summed = gradients(sae, sum(share.loss for share in shares))
    for name in PARAMETERS:
        torch.testing.assert_close(summed[name], expected[name])


def test_one_step_run_twice_is_bit_equal() -> None:
    x = random_batch(256, 32).float()

    def step() -> list[Tensor]:
        sae = TopKSAE(32, 512, 8, aux_k=16, dead_after_tokens=1, seed=3)
        sae.dead_latents.tokens_since_fired[::5] = 1
        out = sae(x)
        out.loss.backward()
        return [out.loss.detach(), *(p.grad for p in sae.parameters() if p.grad is not None)]

    assert all(torch.equal(a, b) for a, b in zip(step(), step(), strict=True))


@pytest.fixture
def process_group() -> Iterator[None]:
    """A group of this process alone: there is one already if a test before needed it."""
    mine = not dist.is_initialized()
    if mine:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    if mine:
        dist.destroy_process_group()


def test_training_under_distributed_data_parallel(process_group: None) -> None:
    sae = random_sae(8, 32, 4, aux_k=8, dead_after_tokens=1)
    x = random_batch(16, 8)
    expected = gradients(sae, sae(x, global_batch_size=20).loss)
    DistributedDataParallel(sae)(x, global_batch_size=20).loss.backward()
    for name in PARAMETERS:
        assert torch.equal(getattr(sae, name).grad, expected[name])


def test_bf16_encoder_stays_close_and_keeps_fp32_gradients() -> None:
    x = random_batch(128, 64).float()
    exact = TopKSAE(64, 512, 16, seed=1)
    mixed = TopKSAE(64, 512, 16, seed=1, encoder_dtype=torch.bfloat16)
    a, b = exact(x), mixed(x)
    assert b.values.dtype == torch.float32
    assert not torch.equal(a.values.sort(dim=1).values, b.values.sort(dim=1).values)
    torch.testing.assert_close(b.loss, a.loss, rtol=5e-3, atol=0)
    expected, ours = gradients(exact, a.loss), gradients(mixed, b.loss)
    for name in PARAMETERS:
        assert ours[name].dtype == torch.float32
        assert (ours[name] - expected[name]).norm() < 0.2 * expected[name].norm(), name
