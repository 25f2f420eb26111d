"""The host model: the first layers of a language model, run over texts.

Only the blocks up to the layer that is read are built, and only their weights are read from
disk: blocks above it would cost their share of memory and time for nothing. The output is
the raw residual stream behind that block (what `output_hidden_states[layer]` of the whole
model holds for layer < number of layers), before any final norm.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.utils import logging as transformers_logging

from data.errors import ConfigError, DataError
from ray_jobs.activations.host_files import HostFiles, first_line, locate
from ray_jobs.activations.tokens import HostTokenizer, TokenizedText, Window

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Padded tokens per forward pass: on a CPU what stays in its caches, on a GPU what fills it.
_BATCH_TOKENS = {"cpu": 512, "cuda": 32768}
_POSITIONS_BEHIND_PADDING = frozenset(
    ("roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "xmod")
    + ("longformer", "mpnet", "data2vec-text", "ibert")
)
"""Architectures whose first position comes behind the index of padding."""
_LANGUAGE_MODEL_KEYS = {r"^(model\.)?language_model\.(model\.)?": ""}
_NOT_RUNNABLE = (AttributeError, ImportError, IndexError, TypeError, RuntimeError, ValueError)
# Enters every fingerprint: raised when the same weights would give other activations.
_METHOD = "2"


class HostPlan:
    """A host model without weights: enough to tokenize, count rows and name a cache.

    name, layer   as given; layer counts blocks from 1 (the output of block `layer`)
    d_in          width of an activation
    max_tokens    longest window, special tokens included
    description   one line for people
    fingerprint   hex digest of weights, layer and dtype: equal means equal activations

    Errors: DataError for a model that cannot be found or read, ConfigError for `layer`
    or `dtype` outside their range, or a device that is not here.
    """

    def __init__(self, name: str, layer: int, *, dtype: str = "float32") -> None:
        if dtype not in DTYPES:
            raise ConfigError("dtype", f"{dtype!r} is none of {', '.join(DTYPES)}")
        self.files: HostFiles = locate(name)
        self.config, self._key_mapping = _config(self.files, layer)
        self.name, self.layer, self.dtype = name, layer, dtype
        self.d_in: int = self.config.hidden_size
        self.tokenizer = HostTokenizer(name, self.files.folder, _positions(self.config))
        self.max_tokens = self.tokenizer.max_tokens
        self.description = f"{self.files.label}, layer {layer}, {dtype}"
        identity = f"{self.files.identity}/{layer}/{dtype}/{self.tokenizer.identity}/{_METHOD}"
        self.fingerprint = hashlib.sha256(identity.encode()).hexdigest()

    def tokenize(self, texts: list[str]) -> list[TokenizedText]:
        """Tokens, character offsets and windows of each text."""
        return self.tokenizer.tokenize(texts)


class HostModel(HostPlan):
    """A host model with its weights, ready to run on `device` ("cpu", "cuda", "cuda:1").

    Errors: those of HostPlan, and ConfigError for a device that this machine does not have.
    """

    def __init__(
        self, name: str, layer: int, *, dtype: str = "float32", device: str = "cpu"
    ) -> None:
        self.device = _device(device)
        super().__init__(name, layer, dtype=dtype)
        self._batch_tokens = _BATCH_TOKENS.get(self.device.type, _BATCH_TOKENS["cpu"])
        model = _truncated_model(self.files, self.config, DTYPES[dtype], self._key_mapping)
        self._model = model.to(self.device)
        _last_block(self._model, self.files.name, layer).register_forward_hook(self._keep_output)
        self._output: Tensor | None = None
        if _positions(self.config) is None:
            self._try_a_full_window()

    def _try_a_full_window(self) -> None:
        """Where no configuration says how long a window may be: now, not hours into a harvest."""
        length = self.max_tokens - self._n_special
        try:
            self._forward([np.zeros(length, dtype=np.int64)])
        except _NOT_RUNNABLE as error:
            raise DataError(
                f"host model {self.name!r}: a window of {self.max_tokens} tokens cannot be run: "
                f"{first_line(error)}"
            ) from error

    def activations(self, texts: list[str]) -> list[Tensor]:
        """Per text (T, d_in) float32 on the CPU, one row per content token, in text order."""
        return [rows.float() for rows in self.rows(self.tokenize(texts))]

    def rows(
        self, texts: list[TokenizedText], wanted: list[tuple[int, int]] | None = None
    ) -> list[Tensor]:
        """Rows [start, stop) of each text (all when `wanted` is None), in the model's dtype.

        Only the windows that hold wanted rows are run. Windows are sorted by length and run in
        batches of a bounded number of tokens; each result is (stop - start, d_in) on the CPU.
        """
        bounds = wanted or [(0, text.n_rows) for text in texts]
        results = [
            torch.empty(stop - start, self.d_in, dtype=DTYPES[self.dtype]) for start, stop in bounds
        ]
        jobs = [
            (index, window)
            for index, (text, bound) in enumerate(zip(texts, bounds, strict=True))
            for window in _windows_holding(text, *bound)
        ]
        jobs.sort(key=lambda job: job[1].start - job[1].stop)
        for batch in self._batches(jobs):
            hidden = self._forward([texts[index].input_ids[w.start : w.stop] for index, w in batch])
            for (index, window), states in zip(batch, hidden, strict=True):
                _place(results[index], texts[index], bounds[index], window, states)
        return results

    def _batches(self, jobs: list[tuple[int, Window]]) -> Iterator[list[tuple[int, Window]]]:
        """Cut jobs, longest first, so that a batch's padded size stays within the budget."""
        begin = 0
        while begin < len(jobs):
            longest = jobs[begin][1].stop - jobs[begin][1].start + self._n_special
            size = max(1, self._batch_tokens // longest)
            yield jobs[begin : begin + size]
            begin += size

    @torch.inference_mode()
    def _forward(self, windows: list[np.ndarray]) -> list[Tensor]:
        """(n_i, d_in) on the CPU for each window of n_i token ids."""
        prefix, suffix = self.tokenizer.prefix, self.tokenizer.suffix
        lengths = [len(ids) + self._n_special for ids in windows]
        input_ids = torch.full((len(windows), max(lengths)), self.tokenizer.pad_id)
        attention = torch.zeros_like(input_ids)
        for row, ids in enumerate(windows):
            whole = np.concatenate([prefix, ids, suffix]).astype(np.int64)
            input_ids[row, : lengths[row]] = torch.from_numpy(whole)
            attention[row, : lengths[row]] = 1
        # Without padding no mask is passed, which leaves SDPA its fastest kernel.
        mask = None if min(lengths) == max(lengths) else attention.to(self.device)
        self._model(input_ids=input_ids.to(self.device), attention_mask=mask, **self._extra)
        assert self._output is not None, "the hooked block ran in the forward pass"
        hidden, self._output = self._output.cpu(), None
        first = len(prefix)
        return [hidden[row, first : first + len(ids)] for row, ids in enumerate(windows)]

    @property
    def _n_special(self) -> int:
        return len(self.tokenizer.prefix) + len(self.tokenizer.suffix)

    @property
    def _extra(self) -> dict[str, Any]:
        return {"use_cache": False} if hasattr(self.config, "use_cache") else {}

    def _keep_output(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._output = output[0] if isinstance(output, tuple) else output


def _device(name: str) -> torch.device:
    known = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    known = ["cpu", *(["cuda", *known] if known else [])]
    if name not in known:
        raise ConfigError("device", f"{name!r} is not on this machine; it has {', '.join(known)}")
    return torch.device(name)


def _positions(config: Any) -> int | None:
    """Tokens that the model has positions for; None where its configuration does not say."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions and config.model_type in _POSITIONS_BEHIND_PADDING:
        return positions - config.pad_token_id - 1
    return positions


def _config(files: HostFiles, layer: int) -> tuple[Any, dict[str, str] | None]:
    """The language model's configuration, cut to `layer` blocks, and how its weights are renamed
    where it is one part of a larger model (images and text)."""
    try:
        config = AutoConfig.from_pretrained(files.folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"host model {files.name!r}: config.json: {first_line(error)}") from error
    larger, config = config, config if config.is_encoder_decoder else config.get_text_config()
    key_mapping = None if config is larger else _LANGUAGE_MODEL_KEYS
    n_layers = getattr(config, "num_hidden_layers", None)
    if n_layers is None or config.is_encoder_decoder:
        raise DataError(
            f"host model {files.name!r}: {config.model_type} is no plain encoder or decoder stack"
        )
    if quantization := getattr(config, "quantization_config", None):
        method = dict(quantization).get("quant_method", "by an unnamed method")
        raise DataError(
            f"host model {files.name!r}: its weights are quantized ({method}), which is not read "
            "here; give the model that it was made from"
        )
    if not 1 <= layer <= n_layers:
        raise ConfigError("layer", f"{layer} is outside 1..{n_layers} of {files.name!r}")
    config.num_hidden_layers = layer
    # Some derive it from the number of layers, and let nobody set it.
    if len(layer_types := getattr(config, "layer_types", None) or ()) > layer:
        config.layer_types = layer_types[:layer]
    return config, key_mapping


def _truncated_model(
    files: HostFiles, config: Any, dtype: torch.dtype, key_mapping: dict[str, str] | None
) -> nn.Module:
    # The loader would list every weight above the layer as unexpected: that is the purpose.
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        model, report = AutoModel.from_pretrained(
            files.folder,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            key_mapping=key_mapping,
            trust_remote_code=False,
        )
    except (OSError, KeyError, SafetensorError, *_NOT_RUNNABLE) as error:
        raise DataError(
            f"host model {files.name!r}: cannot be loaded: {first_line(error)}"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise DataError(f"host model {files.name!r}: weights lack {missing[0]}")
    return model.eval()


def _last_block(model: nn.Module, name: str, layer: int) -> nn.Module:
    """The block whose output is read: the last of the one stack of `layer` blocks."""
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == layer]
    if not stacks:
        raise DataError(f"host model {name!r}: no stack of {layer} blocks found in it")
    return stacks[0][-1]


def _windows_holding(text: TokenizedText, start: int, stop: int) -> list[Window]:
    if start >= stop:
        return []
    first, last = text.row_tokens[start], text.row_tokens[stop - 1]
    return [w for w in text.windows if w.keep_start <= last and first < w.keep_stop]


def _place(
    result: Tensor, text: TokenizedText, bound: tuple[int, int], window: Window, states: Tensor
) -> None:
    """Copy into `result` the rows that `window` keeps, of the rows [start, stop) asked for."""
    start, stop = bound
    kept = np.searchsorted(text.row_tokens, [window.keep_start, window.keep_stop])
    begin, end = max(start, int(kept[0])), min(stop, int(kept[1]))
    if begin < end:
        tokens = torch.from_numpy(text.row_tokens[begin:end] - window.start)
        result[begin - start : end - start] = states[tokens]
