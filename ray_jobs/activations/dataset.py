"""The labelled texts of a run: the built-in ones, or the user's own file, in three splits."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from data.build import build_pii
from data.documents import Document, read_documents
from data.errors import ConfigError, DataError
from data.files import check_local_files, sha256_of
from data.manifest import Manifest

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class DataConfig:
    """Which texts a job reads."""

    # Texts
    data: str | None = None
    """Your labelled text: a JSONL or Parquet file with text and (start, end, label) spans, local
    or s3://; split 80/10/10 by a hash of the text. Default: the built-in invented texts."""

    test_data: str | None = None
    """A labelled file to test on instead of a tenth of `data`."""

    documents: int = 4000
    """Built-in texts: how many documents over all splits."""

    languages: str = "en,de,fr,es,it"
    """Built-in texts: the languages, with commas."""

    data_seed: int = 0
    """Built-in texts: the seed of the builder."""

    def __post_init__(self) -> None:
        if self.test_data and not self.data:
            raise ConfigError("test_data", "needs --data; give both")

    def check_files(self) -> None:
        """Refuse local files that cannot be read; needs no Ray. Raises DataError."""
        check_local_files(self.data, self.test_data)


@dataclass(frozen=True)
class Dataset:
    """Documents by split; `prose` is clean text without personal data, by split, to count false
    alarms on. `sha256` is the identity of all of it, `source` names it for a reader."""

    labelled: dict[str, list[Document]]
    prose: dict[str, list[Document]]
    sha256: str
    source: str

    def texts(self, split: str) -> list[str]:
        """Labelled texts of a split, then its prose: the rows of its activation set."""
        return [d.text for d in self.labelled[split]] + [d.text for d in self.prose[split]]

    def split_sha256(self, split: str) -> str:
        """Identity of one split."""
        return hashlib.sha256(f"{self.sha256} {split}".encode()).hexdigest()


def open_dataset(config: DataConfig, cache_dir: Path) -> Dataset:
    """The texts of `config`, verified; the built-in ones are built once below `cache_dir`.

    Raises:
        DataError: a file is missing, empty or wrong; CorruptFileError: a byte has changed.
    """
    return _own_data(config) if config.data else _built_in(config, cache_dir)


def _built_in(config: DataConfig, cache_dir: Path) -> Dataset:
    languages = [language.strip() for language in config.languages.split(",")]
    folder = cache_dir / f"pii-{config.documents}-{'-'.join(languages)}-{config.data_seed}"
    manifest = build_pii(folder, config.data_seed, config.documents, languages)
    return Dataset(
        {split: read_documents(manifest.locate(f"pii-{split}")) for split in SPLITS},
        {split: read_documents(manifest.locate(f"prose-{split}")) for split in SPLITS},
        _digest(manifest),
        f"built-in invented texts ({config.documents:,} documents, seed {config.data_seed}; no "
        "template or value of a test text is in a training text)",
    )


def _digest(manifest: Manifest) -> str:
    return hashlib.sha256(" ".join(e.sha256 for e in manifest.entries).encode()).hexdigest()


def _own_data(config: DataConfig) -> Dataset:
    assert config.data is not None
    labelled: dict[str, list[Document]] = {split: [] for split in SPLITS}
    identity = sha256_of(config.data)
    for document in read_documents(config.data):
        labelled[_split_of(document.text, has_test=config.test_data is None)].append(document)
    if config.test_data:
        labelled["test"] = read_documents(config.test_data)
        identity += sha256_of(config.test_data)
    for split in SPLITS:
        if not labelled[split]:
            raise DataError(f"{config.data}: too few documents for a {split} split; give more")
    return Dataset(
        labelled,
        {split: [] for split in SPLITS},
        hashlib.sha256(identity.encode()).hexdigest(),
        config.data,
    )


def _split_of(text: str, has_test: bool) -> str:
    """The same text is always in the same split, whatever else is in the file."""
    tenth = hashlib.sha256(text.encode()).digest()[0] * 10 // 256
    if tenth == 0:
        return "validation"
    return "test" if tenth == 1 and has_test else "train"
