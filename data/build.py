"""Build the data sets: `python -m data.build pii --seed 0 --documents 20000 --output-dir DIR`."""

import hashlib
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from data.builders.pii import pii_documents
from data.builders.prose import LICENCE as PROSE_LICENCE
from data.builders.prose import prose_documents
from data.builders.splits import SPLITS
from data.builders.texts import LANGUAGES
from data.command_line import OneLineParser, run_main
from data.documents import Document, write_documents
from data.errors import ConfigError, InputError
from data.files import join_uri
from data.manifest import FILE_NAME, Entry, Manifest
from data.storage import Store

PII_LICENCE = "this project's own texts; names from Faker's lists (MIT)"
_MIN_DOCUMENTS_A_LANGUAGE = 50
_DOCUMENTS_A_TRAINING_PARAGRAPH = 12
"""So much clean prose at most stands among the training texts, evenly chosen: a paragraph is as
long as three labelled documents, and the classifiers learn little more from a thousand."""


def build_pii(
    output_dir: str | Path,
    seed: int = 0,
    documents: int = 20_000,
    languages: Sequence[str] = LANGUAGES,
) -> Manifest:
    """Labelled personal data `pii-SPLIT.jsonl` and clean prose `prose-SPLIT.jsonl` in a folder
    at a path or URI.

    Idempotent: files that are whole and made by the same settings are used again (see
    `whole_build`). The same settings give the same bytes; the manifest is written last.

    Raises:
        ConfigError: a setting is out of range; the message starts with its name.
        StorageError: the folder cannot be written.
    """
    _check(seed, documents, languages)
    folder = str(output_dir)
    whole = whole_build(folder, seed, documents, languages)
    if whole is not None:
        return whole
    Store.open(folder).delete(FILE_NAME)
    entries: list[Entry] = []
    for split in SPLITS:
        labelled = list(pii_documents(split, seed, documents, tuple(languages)))
        entries.append(_write(folder, f"pii-{split}", labelled, PII_LICENCE))
        prose = prose_documents(split)
        if split == "train":
            prose = prose[:: -(-len(prose) * _DOCUMENTS_A_TRAINING_PARAGRAPH // documents)]
        entries.append(_write(folder, f"prose-{split}", prose, PROSE_LICENCE))
    made_by = _made_by(seed, documents, languages)
    rebuild = _command(folder, seed, documents, languages)
    manifest = Manifest(tuple(entries), made_by, rebuild, folder)
    manifest.save()
    return manifest


def whole_build(
    folder: str, seed: int, documents: int, languages: Sequence[str]
) -> Manifest | None:
    """The manifest of what `build_pii` has already made with these settings, if every byte is
    still there; else None."""
    try:
        manifest = Manifest.load(folder)
        if manifest.made_by != _made_by(seed, documents, languages):
            return None
        manifest.verify()
    except InputError:
        return None
    return manifest


def _write(folder: str, name: str, documents: list[Document], licence: str) -> Entry:
    file_name = f"{name}.jsonl"
    sha256 = write_documents(documents, join_uri(folder, file_name))
    return Entry(name, file_name, sha256, len(documents), licence)


def _made_by(seed: int, documents: int, languages: Sequence[str]) -> dict[str, str]:
    """All that the bytes depend on; the prose comes with Python."""
    return {
        "seed": str(seed),
        "documents": str(documents),
        "languages": ",".join(languages),
        "python": platform.python_version(),
        "faker": version("faker"),
        "builders_sha256": _builders_sha256(),
    }


def _builders_sha256() -> str:
    digest = hashlib.sha256()
    builders = files("data.builders")
    for folder in (builders, builders / "texts"):
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            if file.name.endswith((".py", ".txt")):
                digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _command(folder: str, seed: int, documents: int, languages: Sequence[str]) -> str:
    return (
        f"python -m data.build pii --seed {seed} --documents {documents} "
        f"--languages {','.join(languages)} --output-dir {shlex.quote(folder)}"
    )


def _check(seed: int, documents: int, languages: Sequence[str]) -> None:
    if seed < 0:
        raise ConfigError("seed", f"{seed} is below 0")
    unknown = [language for language in languages if language not in LANGUAGES]
    if unknown or not languages or len(set(languages)) < len(languages):
        listed = ",".join(languages)
        raise ConfigError("languages", f"{listed!r} is not a choice of {','.join(LANGUAGES)}")
    least = _MIN_DOCUMENTS_A_LANGUAGE * len(languages)
    if documents < least:
        many = f"{len(languages)} language{'s' if len(languages) > 1 else ''}"
        raise ConfigError("documents", f"{documents} is too few for {many}; at least {least}")


def main(argv: list[str]) -> None:
    """The command line; its errors are those of `build_pii`."""
    parser = OneLineParser(prog="python -m data.build", description=__doc__)
    parser.add_argument("data_set", choices=["pii"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--documents", type=int, default=20_000, help="over all splits")
    parser.add_argument("--languages", default=",".join(LANGUAGES))
    parser.add_argument("--output-dir", required=True)
    flags = parser.parse_args(argv)
    setting = (flags.seed, flags.documents, flags.languages.split(","))
    found = whole_build(flags.output_dir, *setting)
    manifest = found or build_pii(flags.output_dir, *setting)
    for entry in manifest.entries:
        sys.stdout.write(f"{entry.rows:8,}  {manifest.locate(entry.name)}\n")
    state = "whole already: used again" if found else "built"
    sys.stdout.write(f"{state}: {join_uri(flags.output_dir, FILE_NAME)}\n")


if __name__ == "__main__":
    run_main(main)
