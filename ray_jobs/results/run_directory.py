"""The run directory: results, and a manifest that says the run is complete.

`manifest.json` is written last. It lists every result with size and sha256, and what the run
depended on; a run whose manifest verifies and whose inputs are the same is not repeated. A run
that does repeat deletes the manifest first, so that it never lists files of two runs.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import ray_jobs
from data.errors import CorruptFileError, DataError
from data.storage import FileRecord, Store

MANIFEST = "manifest.json"

WORKING_DIRECTORIES = ("activations/", "cache/", "checkpoints/")
"""What else a run keeps in its directory when that is also its storage."""


def code_identity() -> dict[str, str]:
    """Version of this package and a digest of its sources, wherever they were uploaded to."""
    digest = hashlib.sha256()
    root = Path(ray_jobs.__file__).parent
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.html")]):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return {"raylambda": _version(), "code_sha256": digest.hexdigest()}


def _version() -> str:
    try:
        return version("raylambda")
    except ModuleNotFoundError:  # an uploaded working directory, not an installation
        return "uninstalled"


def digest_of(values: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that stand for JSON-able values, to name a directory by."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def result_files(run: Store) -> list[str]:
    """Names of the results in a run directory."""
    return [
        name
        for name in run.files()
        if name != MANIFEST and not name.startswith(WORKING_DIRECTORIES)
    ]


def drop_manifest(run: Store) -> None:
    """Before a result changes: no complete run until `write_manifest`. Idempotent."""
    run.delete(MANIFEST)


def write_manifest(
    run: Store, about: Mapping[str, Any], results: Sequence[str] | None = None
) -> None:
    """Write the manifest over `results`; `about` says what the run depended on.

    `results`: those of these names that are there; one that ends in "/" stands for all below it.
    None for a directory that holds nothing else than results.
    """
    files = {}
    for name in result_files(run):
        if results is not None and not _named(name, results):
            continue
        data = run.read_bytes(name)
        files[name] = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    run.write_json(MANIFEST, {"files": files, "run": dict(about)})


def _named(name: str, names: Sequence[str]) -> bool:
    return any(name == each or (each.endswith("/") and name.startswith(each)) for each in names)


@dataclass(frozen=True)
class RunManifest:
    """`files` by their names in the run directory; `run` is what the run depended on."""

    files: Mapping[str, FileRecord]
    run: Mapping[str, Any]


def read_manifest(run: Store) -> RunManifest:
    """The manifest of a finished run.

    Raises:
        DataError: there is none, so the run is not complete.
        CorruptFileError: it is not one that `write_manifest` wrote, or names a file outside of
            the run directory.
    """
    if not run.exists(MANIFEST):
        raise DataError(f"{run.uri} holds no {MANIFEST}: give the directory of a finished run")
    try:
        content = run.read_json(MANIFEST)
        files = {
            _inside(name): FileRecord(_whole(record["size_bytes"]), _sha256(record["sha256"]))
            for name, record in content["files"].items()
        }
        return RunManifest(files, dict(content["run"]))
    except (TypeError, KeyError, AttributeError, ValueError, RecursionError) as error:
        raise CorruptFileError(
            f"{run.uri}/{MANIFEST} is no manifest of a run ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:80]}): run the same command again"
        ) from None


def _inside(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise ValueError(f"{name!r} is no name inside of the run directory")
    return name


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no size")
    return value


def _sha256(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError(f"{value!r} is no sha256")
    return value


def is_complete(run: Store, about: Mapping[str, Any]) -> bool:
    """Whether the directory holds the complete, unaltered results of a run whose manifest agrees
    with `about`; the manifest may hold more."""
    if not run.exists(MANIFEST):
        return False
    try:
        its = read_manifest(run).run
        if {name: its.get(name) for name in about} != json.loads(json.dumps(dict(about))):
            return False
        verify(run)
    except CorruptFileError:
        return False
    return True


def verify(run: Store) -> int:
    """Check every result against the manifest; returns their number.

    Raises:
        CorruptFileError: a file is missing or other than recorded, or none is listed; those of
            `read_manifest`.
    """
    files = read_manifest(run).files
    if not files:
        raise CorruptFileError(f"{run.uri}/{MANIFEST} lists no file: run the same command again")
    for name, record in files.items():
        run.read_bytes(name, record)
    return len(files)


def fetch(run: Store, names: Sequence[str], folder: Path) -> None:
    """Copy results below `folder`, each checked against the manifest; a name that ends in "/"
    stands for all below it.

    Raises:
        DataError: there is no manifest, so the run is not complete, or it lists no such result.
        CorruptFileError: a file is missing or other than recorded; before anything is made, those
            of `read_manifest`.
    """
    files = read_manifest(run).files
    for name in names:
        found = [each for each in files if _named(each, [name])]
        if not found:
            raise DataError(f"{run.uri}/{MANIFEST} lists no {name}")
        for each in found:
            run.fetch(each, folder / each, files[each])
