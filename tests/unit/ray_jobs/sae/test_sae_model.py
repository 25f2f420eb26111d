"""TopKSAE's contract: shapes, refusals, dead latents, exact top-k."""

import copy
import dataclasses
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ray_jobs.sae.model as model
from data.errors import ConfigError
from ray_jobs.sae.kernels.topk import exact_topk
from ray_jobs.sae.model import TopKSAE, has_fast_bf16
from tests.dense_sae import (
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


def test_the_auxiliary_loss_is_off_in_eval_mode_and_while_no_latent_is_dead() -> None:
    sae = random_sae(8, 32, 4, aux_k=8, dead_after_tokens=5)
    x = random_batch(16, 8)
    assert sae(x).aux_squared_error == 0
    sae.dead_latents.tokens_since_fired[:4] = 5
    assert sae(x).aux_squared_error > 0
    assert sae.eval()(x).aux_squared_error == 0


def test_output_agrees_with_encode_and_decode() -> None:
    sae = random_sae(8, 64, 6)
    x = random_batch(30, 8)
    out = sae(x)
    values, indices = sae.encode(x)
    assert torch.equal(values, out.values) and torch.equal(indices, out.indices)
    torch.testing.assert_close(sae.decode(indices, values), out.reconstruction)
    variance = (x - x.mean(dim=0)).square().sum()
    torch.testing.assert_close(out.fvu, (x - out.reconstruction).square().sum() / variance)
    fired = torch.zeros(64, dtype=torch.bool)
    fired[indices[values > 0].unique()] = True
    assert torch.equal(out.fired, fired)
    assert not out.reconstruction.requires_grad and out.loss.requires_grad


def test_without_gradients_the_output_is_the_same() -> None:
    sae = random_sae(8, 64, 6)
    x = random_batch(30, 8)
    with torch.no_grad():
        quiet = sae(x)
    loud = sae(x)
    assert not quiet.loss.requires_grad
    for field in ("loss", "values", "indices", "residual"):
        assert torch.equal(getattr(quiet, field), getattr(loud, field)), field


def test_input_of_another_dtype_is_taken_in_the_parameters_dtype() -> None:
    sae = TopKSAE(8, 32, 4)
    out = sae(random_batch(4, 8).bfloat16())
    assert out.reconstruction.dtype == torch.float32


@pytest.mark.parametrize("shape", [(8,), (2, 3, 8), (4, 7)])
def test_a_batch_of_the_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    sae = TopKSAE(8, 32, 4)
    for call in (sae, sae.encode):
        with pytest.raises(ValueError, match=r"takes \(batch, 8\)"):
            call(torch.zeros(shape))


@pytest.mark.parametrize(
    ("sizes", "field"),
    [((0, 8, 2), "d_in"), ((4, 0, 1), "n_latents"), ((4, 8, 9), "k"), ((4, 8, 0), "k")],
)
def test_impossible_sizes_are_refused(sizes: tuple[int, int, int], field: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        TopKSAE(*sizes)
    assert refusal.value.field == field


def test_the_decoder_starts_and_stays_at_unit_norm() -> None:
    sae = TopKSAE(16, 64, 4)
    assert torch.equal(sae.W_enc, sae.W_dec)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64))
    sae.W_dec.data *= 7
    sae.normalise_decoder()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64))


def test_the_seed_alone_decides_the_start() -> None:
    torch.manual_seed(1)
    first = TopKSAE(8, 32, 4, seed=5)
    torch.manual_seed(2)
    assert torch.equal(TopKSAE(8, 32, 4, seed=5).W_dec, first.W_dec)
    assert not torch.equal(TopKSAE(8, 32, 4, seed=6).W_dec, first.W_dec)


def test_dead_latents_count_tokens_and_survive_a_restart() -> None:
    sae = TopKSAE(8, 4, 2, dead_after_tokens=100)
    dead = sae.dead_latents
    dead.update(torch.tensor([True, False, True, False]), tokens=60)
    dead.update(torch.tensor([False, False, True, False]), tokens=40)
    assert dead.tokens_since_fired.tolist() == [40, 100, 0, 100]
    assert dead.mask().tolist() == [False, True, False, True]
    assert dead.indices().tolist() == [1, 3] and dead.share() == 0.5
    restored = TopKSAE(8, 4, 2, dead_after_tokens=100, seed=9)
    restored.load_state_dict(copy.deepcopy(sae.state_dict()))
    assert restored.dead_latents.indices().tolist() == [1, 3]


def test_a_few_steps_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(24, 16, generator=generator), dim=1)
    sae = TopKSAE(16, 48, 3, aux_k=8, dead_after_tokens=2000)
    optimizer = torch.optim.Adam(sae.parameters(), lr=5e-3)
    first = last = None
    for _ in range(150):
        codes = torch.rand(256, 24, generator=generator)
        codes *= torch.rand(256, 24, generator=generator) < 0.1
        out = sae(3.0 * codes @ directions)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        sae.normalise_decoder()
        sae.dead_latents.update(out.fired, tokens=256)
        first, last = first or out.fvu.item(), out.fvu.item()
    assert last < 0.2 * first, (first, last)


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 5),
    n=st.integers(1, 300),
    k=st.integers(1, 12),
    levels=st.integers(1, 50),
    seed=st.integers(0, 1000),
)
def test_exact_topk_takes_the_largest(rows: int, n: int, k: int, levels: int, seed: int) -> None:
    k = min(k, n)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (rows, n), generator=generator).float()
    values, indices = exact_topk(scores.t().contiguous(), k)
    assert torch.equal(values, scores.gather(1, indices))
    assert torch.equal(values.sort(descending=True).values, scores.topk(k).values)
    assert all(len(row.unique()) == k for row in indices)


def test_bf16_is_fast_where_the_hardware_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, expected in (("amx_bf16", True), ("avx512_bf16", True), ("avx2", False)):
        monkeypatch.setattr(
            model.torch.cpu, "get_capabilities", lambda have=capability: {have: True}
        )
        assert has_fast_bf16("cpu") is expected
    monkeypatch.setattr(model.torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not has_fast_bf16("cuda")
    monkeypatch.setattr(model.torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert has_fast_bf16("cuda")
    assert not has_fast_bf16("meta")


def test_the_output_is_frozen() -> None:
    out = TopKSAE(8, 32, 4)(torch.zeros(2, 8))
    with pytest.raises(dataclasses.FrozenInstanceError):
        out.loss = torch.zeros(())  # type: ignore[misc]
