"""What a data set consists of: file, sha256, rows and licence; and whether that still holds.

`manifest.json` is written last, so where it is, its files are whole; `verify` finds what has
changed since.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

from data.errors import CorruptFileError, DataError
from data.files import join_uri, local_copy, sha256_of, split_uri, write_lines

FILE_NAME = "manifest.json"


@dataclass(frozen=True)
class Entry:
    """One file. A `uri` without scheme and leading "/" is relative to the manifest."""

    name: str
    uri: str
    sha256: str
    rows: int
    licence: str


@dataclass(frozen=True)
class Manifest:
    """`made_by` is all that the bytes depend on (seed, versions); `rebuild` the command that
    makes them again; `folder` where the manifest lies, not part of the file."""

    entries: tuple[Entry, ...]
    made_by: Mapping[str, str] = field(default_factory=dict[str, str])
    rebuild: str = ""
    folder: str = ""

    @staticmethod
    def load(uri: str | Path) -> "Manifest":
        """Read a manifest, or the one in a folder, at a path or URI.

        Raises:
            DataError: it is missing or is not a manifest.
        """
        where = str(uri)
        if not split_uri(where)[1].endswith(".json"):
            where = join_uri(where, FILE_NAME)
        with local_copy(where) as path:
            content = path.read_bytes()
        try:
            return _from_json(json.loads(content), split_uri(where)[0])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{where}: not a manifest ({error}); build the data again") from None

    def save(self) -> None:
        """Write `manifest.json` into `folder`, whole or not at all."""
        content = {
            "rebuild": self.rebuild,
            "made_by": dict(self.made_by),
            "entries": [asdict(entry) for entry in self.entries],
        }
        text = json.dumps(content, indent=2, ensure_ascii=False)
        write_lines(join_uri(self.folder, FILE_NAME), [text.encode(), b"\n"])

    def entry(self, name: str) -> Entry:
        """The entry called `name`.

        Raises:
            DataError: there is none.
        """
        for entry in self.entries:
            if entry.name == name:
                return entry
        known = ", ".join(entry.name for entry in self.entries)
        raise DataError(f"{self.folder}: no data called {name!r} in the manifest; it has {known}")

    def locate(self, name: str) -> str:
        """Path or URI of the file of the entry called `name`."""
        uri = self.entry(name).uri
        return uri if "://" in uri or uri.startswith("/") else join_uri(self.folder, uri)

    def verify(self) -> None:
        """Compare every file with its digest.

        Raises:
            CorruptFileError: a byte has changed.
            DataError: a file is missing.
        """
        fix = f"rebuild with: {self.rebuild}" if self.rebuild else "restore the file"
        for entry in self.entries:
            try:
                found = sha256_of(self.locate(entry.name))
            except DataError:
                raise DataError(f"{self.locate(entry.name)}: the file is gone; {fix}") from None
            if found != entry.sha256:
                raise CorruptFileError(
                    f"{self.locate(entry.name)}: sha256 is {found}, the manifest expects "
                    f"{entry.sha256}; {fix}"
                )


def _from_json(content: object, folder: str) -> Manifest:
    """Raises KeyError or TypeError on what is not a manifest."""
    found = _mapping(content)
    entries = found["entries"]
    if not isinstance(entries, list):
        raise TypeError("entries is not a list")
    made_by = _mapping(found["made_by"])
    return Manifest(
        tuple(_entry(_mapping(entry)) for entry in cast(list[object], entries)),
        {name: str(value) for name, value in made_by.items()},
        str(found["rebuild"]),
        folder,
    )


def _entry(found: dict[str, object]) -> Entry:
    name, uri, sha256 = found["name"], found["uri"], found["sha256"]
    rows, licence = found["rows"], found["licence"]
    match name, uri, sha256, rows, licence:
        case str(), str(), str(), int(), str():
            return Entry(name, uri, sha256, rows, licence)
        case _:
            raise TypeError(f"entry {name!r} has a field of the wrong type")


def _mapping(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError("a JSON object is missing")
    return cast(dict[str, object], value)
