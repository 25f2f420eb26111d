"""The model both agents start from: the embedded world's, a folder's or the hub's."""

import dataclasses
import hashlib
import logging
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from data.builders.waltz_demonstrations import Habits
from data.errors import DataError
from data.storage import FileRecord, Store
from ray_jobs.activations.host_files import locate
from ray_jobs.results.run_directory import digest_of
from ray_jobs.waltzrl.config import WORLD
from ray_jobs.waltzrl.models.world import WorldModelSize, build_world_model

logger = logging.getLogger(__name__)

RECORDS = "records.json"
_WORLD_SOURCES = ("waltz_words.py", "waltz_world.py", "waltz_demonstrations.py")


@dataclass(frozen=True)
class BaseModel:
    """A model by name, or as files in a store; `identity` stands for weights and tokenizer."""

    name: str
    identity: str
    store: Store | None = None


def prepare_model(name: str, seed: int, storage: Store) -> BaseModel:
    """Make sure that the workers will find the model; builds the embedded one once.

    Raises:
        DataError: no such model; StorageError: the storage cannot be written.
    """
    if name != WORLD:
        return BaseModel(name, locate(name).identity)
    identity = digest_of(_world_identity(seed))
    store = storage.child("cache", "base-models", f"{WORLD}-{identity}")
    if not store.exists(RECORDS):
        with tempfile.TemporaryDirectory(prefix="waltz-world-") as scratch:
            build_world_model(Path(scratch), seed)
            records = {
                path.name: dataclasses.asdict(store.upload(path, path.name))
                for path in sorted(Path(scratch).iterdir())
            }
        store.write_json(RECORDS, records)
    return BaseModel(name, identity, store)


def _world_identity(seed: int) -> dict[str, object]:
    digest = hashlib.sha256()
    for source in _WORLD_SOURCES:
        digest.update((files("data.builders") / source).read_bytes())
    for source in ("world_model.py", "prompts.py"):
        digest.update((files("ray_jobs.waltzrl") / source).read_bytes())
    return {
        "seed": seed,
        "size": dataclasses.asdict(WorldModelSize()),
        "habits": dataclasses.asdict(Habits()),
        "sources": digest.hexdigest(),
        "torch": torch.__version__,
    }


def model_folder(model: BaseModel, cache: Path) -> Path:
    """A local folder with the model's files; fetched and verified below `cache` if need be."""
    if model.store is None:
        return locate(model.name).folder
    folder = cache / f"{model.name}-{model.identity}"
    for name, record in model.store.read_json(RECORDS).items():
        if not (folder / name).exists():
            folder.mkdir(parents=True, exist_ok=True)
            model.store.fetch(name, folder / name, FileRecord(**record))
    return folder


def load_model(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """The causal language model in a folder."""
    transformers_logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, with a padding token.

    Raises:
        DataError: it has no chat template, so that the agents cannot be told apart.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.chat_template is None:
        raise DataError(f"{folder}: the tokenizer has no chat template; give an instruct model")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
