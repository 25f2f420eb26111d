"""Base model of both agents: built, fetched or found, and loaded from its Hugging Face folder.

A name is `waltz-world` (built once, kept in the storage), a folder, or a model of the hub.
`ModelCache` holds agents that are only sampled from, a few at a time in memory."""

import dataclasses
import hashlib
import logging
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from data.builders.waltz_demonstrations import Habits
from data.errors import DataError
from data.storage import FileRecord, Store
from ray_jobs.activations.host_files import first_line, locate
from ray_jobs.results.run_directory import digest_of
from ray_jobs.waltzrl.config import WORLD
from ray_jobs.waltzrl.models.world import WorldModelSize, build_world_model
from ray_jobs.waltzrl.rollout.dialogue import WORLD_TEMPLATES

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
    """Make sure that the workers will find the model; idempotent, builds the embedded one once.

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
    digest.update((files("ray_jobs.waltzrl.models") / "world.py").read_bytes())
    digest.update(repr(WORLD_TEMPLATES).encode())
    digest.update(repr(WORLD_TEMPLATES.conversation_messages("p", [("a", "f")])).encode())
    digest.update(repr(WORLD_TEMPLATES.feedback_messages("p", "a")).encode())
    return {
        "seed": seed,
        "size": dataclasses.asdict(WorldModelSize()),
        "habits": dataclasses.asdict(Habits()),
        "sources": digest.hexdigest(),
        "torch": torch.__version__,
    }


def model_folder(model: BaseModel, cache: Path) -> Path:
    """A local folder with the model's files; those not below `cache` are fetched and verified."""
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
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
    except ValueError as error:
        raise DataError(f"{folder}: cannot be loaded: {first_line(error)}") from error


def open_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder; DataError where it cannot be loaded."""
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except ValueError as error:
        raise DataError(f"{folder}: no usable tokenizer: {first_line(error)}") from error


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, with a padding token.

    Raises:
        DataError: it has no chat template, so that the agents cannot be told apart.
    """
    tokenizer = open_tokenizer(folder)
    if tokenizer.chat_template is None:
        raise DataError(f"{folder}: the tokenizer has no chat template; give an instruct model")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


class ModelCache:
    """Loads models when they are sampled from; evicts the least recently used beyond `size`."""

    def __init__(self, device: torch.device, size: int = 2) -> None:
        self._device, self._size = device, size
        self._models: OrderedDict[Path, nn.Module] = OrderedDict()

    def agent(self, folder: Path) -> "FolderAgent":
        """The agent in a folder; loads nothing."""
        return FolderAgent(self, folder)

    def load(self, folder: Path) -> nn.Module:
        """The folder's model on the device: bfloat16 on a GPU, float32 on a CPU."""
        if folder not in self._models:
            while len(self._models) >= self._size:
                self._models.popitem(last=False)
            dtype = torch.bfloat16 if self._device.type == "cuda" else torch.float32
            self._models[folder] = load_model(folder, dtype).to(self._device).eval()
        self._models.move_to_end(folder)
        return self._models[folder]


class FolderAgent:
    """An agent to sample from (`rollout.hf.GathersModel`), loaded on demand."""

    def __init__(self, models: ModelCache, folder: Path) -> None:
        self._models, self._folder = models, folder

    @contextmanager
    def gathered(self) -> Iterator[nn.Module]:
        """The whole model."""
        yield self._models.load(self._folder)
