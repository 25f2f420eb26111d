"""SAE files: raw activations in, the same latents out; what is no such file is one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from data.errors import ConfigError, DataError
from data.storage import Store
from ray_jobs.sae.convert import main, write_sae_lens, write_sparsify
from ray_jobs.sae.export import load_sae, save_sae
from ray_jobs.sae.model import TopKSAE

MEAN = torch.linspace(-5.0, 5.0, 12)
SCALE = 7.0


@pytest.fixture
def sae() -> TopKSAE:
    sae = TopKSAE(12, 40, 5, seed=2, aux_k=4)
    generator = torch.Generator().manual_seed(3)
    for bias in (sae.b_enc, sae.b_dec):
        bias.data = 0.3 * torch.randn(bias.shape, generator=generator)
    return sae


@pytest.fixture
def saved(sae: TopKSAE, tmp_path: Path) -> Path:
    save_sae(Store.open(str(tmp_path)), "sae_final.pt", sae, MEAN, SCALE)
    return tmp_path / "sae_final.pt"


def raw_activations() -> Tensor:
    return MEAN + torch.randn(64, 12, generator=torch.Generator().manual_seed(4)) / SCALE


def test_a_saved_sae_takes_raw_activations_and_gives_the_same_latents(
    sae: TopKSAE, saved: Path
) -> None:
    raw = raw_activations()
    trained, finished = sae((raw - MEAN) * SCALE), load_sae(saved)(raw)
    order, expected = finished.indices.argsort(dim=1), trained.indices.argsort(dim=1)
    assert torch.equal(finished.indices.gather(1, order), trained.indices.gather(1, expected))
    torch.testing.assert_close(
        finished.values.gather(1, order) * SCALE,
        trained.values.gather(1, expected),
        rtol=1e-4,
        atol=1e-4,
    )
    torch.testing.assert_close(
        (finished.reconstruction - MEAN) * SCALE, trained.reconstruction, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(finished.fvu, trained.fvu, rtol=1e-4, atol=0)


def test_a_saved_sae_is_plain_data_and_has_unit_norm_rows(saved: Path) -> None:
    content = torch.load(saved, weights_only=True)
    assert content["format"] == 1
    assert content["config"] == {"d_in": 12, "n_latents": 40, "k": 5}
    finished = load_sae(saved)
    assert not finished.training
    torch.testing.assert_close(finished.W_dec.norm(dim=1), torch.ones(40))


def test_the_fingerprint_follows_the_weights_and_k(sae: TopKSAE, saved: Path) -> None:
    assert load_sae(saved).fingerprint == load_sae(saved).fingerprint
    assert load_sae(saved).fingerprint != sae.fingerprint
    before = sae.fingerprint
    assert len(before) == 64
    sae.dead_latents.tokens_since_fired += 5
    assert sae.fingerprint == before
    other_k = TopKSAE(12, 40, 6)
    other_k.load_state_dict(sae.state_dict())
    assert other_k.fingerprint != before
    sae.W_enc.data[3, 3] += 1e-6
    assert sae.fingerprint != before


def without(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    """A copy of `content` that lacks the entry at `keys`."""
    first, *rest = keys
    copy = dict(content)
    if rest:
        copy[first] = without(content[first], *rest)
    else:
        del copy[first]
    return copy


def with_config(content: dict[str, Any], **changes: int) -> dict[str, Any]:
    return {**content, "config": {**content["config"], **changes}}


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda content: [1, 2], id="another object"),
        pytest.param(lambda content: Path("x"), id="code"),
        pytest.param(lambda content: without(content, "state_dict"), id="no weights"),
        pytest.param(lambda content: without(content, "state_dict", "W_enc"), id="no encoder"),
        pytest.param(lambda content: with_config(content, n_latents=41), id="other sizes"),
        pytest.param(lambda content: with_config(content, k=99), id="k too large"),
        pytest.param(lambda content: with_config(content, depth=2), id="another config"),
    ],
)
def test_another_content_is_refused_in_one_line(
    saved: Path, spoil: Callable[[dict[str, Any]], object]
) -> None:
    torch.save(spoil(torch.load(saved, weights_only=True)), saved)
    assert_refused(saved)


@pytest.mark.parametrize("size_bytes", [0, 10, -400])
def test_a_file_cut_short_is_refused_in_one_line(saved: Path, size_bytes: int) -> None:
    saved.write_bytes(saved.read_bytes()[:size_bytes])
    assert_refused(saved)


@pytest.mark.parametrize("content", ["not a model\n", "text,label\n"])
def test_a_text_or_a_folder_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    text = tmp_path / "notes.pt"
    text.write_text(content)
    assert_refused(text)
    assert_refused(tmp_path)


def test_a_pickled_module_is_refused_without_advice_to_trust_it(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(DataError, match="not an SAE of this project .more than weights.$"):
        load_sae(tmp_path / "module.pt")


def assert_refused(path: Path) -> None:
    with pytest.raises(DataError) as refusal:
        load_sae(path)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_missing_sae_file_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_sae(tmp_path / "none.pt")


def test_the_format_of_sae_lens(sae: TopKSAE, tmp_path: Path) -> None:
    write_sae_lens(Store.open(str(tmp_path)), sae)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert (config["architecture"], config["d_in"], config["d_sae"], config["k"]) == (
        "topk",
        12,
        40,
        5,
    )
    assert config["apply_b_dec_to_input"] and not config["rescale_acts_by_decoder_norm"]
    weights = load((tmp_path / "sae_weights.safetensors").read_bytes())
    assert {name: tuple(value.shape) for name, value in weights.items()} == {
        "W_enc": (12, 40),
        "b_enc": (40,),
        "W_dec": (40, 12),
        "b_dec": (12,),
    }
    assert torch.equal(weights["W_enc"], sae.W_enc.t())


def test_the_format_of_sparsify(sae: TopKSAE, tmp_path: Path) -> None:
    write_sparsify(Store.open(str(tmp_path)), sae)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert (config["d_in"], config["num_latents"], config["k"]) == (12, 40, 5)
    assert config["activation"] == "topk" and not config["transcode"]
    weights = load((tmp_path / "sae.safetensors").read_bytes())
    assert {name: tuple(value.shape) for name, value in weights.items()} == {
        "encoder.weight": (40, 12),
        "encoder.bias": (40,),
        "W_dec": (40, 12),
        "b_dec": (12,),
    }
    assert torch.equal(weights["encoder.weight"], sae.W_enc)


def test_the_command_converts(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "lens"
    main([str(saved), "--to", "sae-lens", "--output-dir", str(folder)])
    assert (folder / "sae_weights.safetensors").stat().st_size > 0
    assert str(folder) in capsys.readouterr().out


@pytest.mark.parametrize("format_name", ["gguf", ""])
def test_an_unknown_format_is_refused(saved: Path, tmp_path: Path, format_name: str) -> None:
    with pytest.raises(ConfigError, match="invalid choice: .* from 'sae-lens', 'sparsify'"):
        main([str(saved), "--to", format_name, "--output-dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
