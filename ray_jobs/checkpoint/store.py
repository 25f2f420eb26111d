"""The checkpoints in one directory or bucket prefix: saved, committed, verified, pruned."""

import hashlib
import json
import logging
import pickle
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from data.errors import ConfigError, CorruptFileError, StorageError
from data.storage import FileRecord, Store
from ray_jobs.checkpoint.layout import (
    MARKER,
    REJECTED,
    CheckpointInfo,
    manifest_name,
    parse_directory,
    parse_marker,
    parse_record,
    record_json,
    state_name,
)
from ray_jobs.checkpoint.state import PIECE_BYTES, compact, cut, joined, merged, plain_state

logger = logging.getLogger(__name__)
T = TypeVar("T")

FETCHES_AT_ONCE = 8


def _identity(value: T) -> T:
    return value


@dataclass(frozen=True)
class Readers:
    """The collectives of processes that load a checkpoint together; by default one alone.

    `leads`: this process fetches for its machine. `all_agree` is a logical AND over all,
    `from_rank_zero` broadcasts rank 0's list, `from_leader` the value of this machine's leader.
    """

    leads: bool = True
    all_agree: Callable[[bool], bool] = _identity
    from_rank_zero: Callable[[list[str]], list[str]] = _identity
    from_leader: Callable[[str | None], str | None] = _identity


class CheckpointStore:
    """The checkpoints of one run; those that are committed, and no others, can be loaded.

    One process saves a state (world size 1), or each of several its part. Any number of
    processes can load it, each the full state. Of committed checkpoints `keep` are kept.
    """

    def __init__(
        self,
        store: Store,
        keep: int = 3,
        clock: Callable[[], float] = time.time,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        if keep < 1:
            raise ConfigError("keep", f"is {keep}; must be >= 1")
        self._store = store
        self._keep = keep
        self._clock = clock
        self._piece_bytes = piece_bytes

    def save(
        self,
        step: int,
        state: Mapping[str, Any],
        *,
        rank: int = 0,
        world_size: int = 1,
        attempt: str,
        metadata: dict[str, Any],
    ) -> CheckpointInfo:
        """Store this rank's part; the last rank to do so commits (`info.committed`).

        Rank 0's `metadata`, JSON, becomes the checkpoint's. Idempotent: a repeated call completes
        or returns what is there.

        Raises:
            StorageError: nothing was committed.
            TypeError: the state has an entry that could not be loaded again.
        """
        info = CheckpointInfo(step, world_size, attempt)
        if not 0 <= rank < world_size:
            raise ConfigError("rank", f"is {rank}; must be in 0..{world_size - 1}")
        plain = plain_state(state, compact)
        metadata = json.loads(json.dumps(metadata))
        folder = self._store.child(info.name)
        if not folder.exists(manifest_name(rank)):
            files = [
                record_json(
                    folder.write_stream(state_name(rank, number), partial(torch.save, piece))
                )
                for number, piece in enumerate(cut(plain, self._piece_bytes))
            ]
            manifest = {"rank": rank, "metadata": metadata, "saved_at": self._clock()}
            folder.write_json(manifest_name(rank), manifest | {"files": files})
        return self._commit_if_complete(folder, info)

    def committed(self) -> list[CheckpointInfo]:
        """All committed checkpoints, newest first: by step, then by time of commit."""
        infos = []
        for info, names in self._directories():
            if MARKER not in names or REJECTED in names:
                continue
            try:
                marker = self._store.child(info.name).read_json(MARKER)
                infos.append(parse_marker(info, marker))
            except CorruptFileError as error:
                logger.warning("checkpoint %s is skipped: %s", info.name, error)
            except StorageError:
                if self._store.exists(f"{info.name}/{MARKER}"):
                    raise
                # Another process pruned it since the listing.
        return sorted(infos, key=lambda info: (info.step, info.committed_at), reverse=True)

    def load_newest(
        self, readers: Readers = Readers()
    ) -> tuple[CheckpointInfo, dict[str, Any]] | None:
        """The newest checkpoint that verifies for every reader; None when there is none.

        Its tensors are memory maps of files on the local disk, which all readers of a machine
        share; the disk's space is freed when no reader holds one any more. A damaged checkpoint
        is marked as rejected, and the one before it is loaded.

        Raises:
            StorageError: the storage cannot be reached, which is no reason to load an older one.
        """
        infos = {info.name: info for info in self.committed()}
        for name in readers.from_rank_zero(list(infos)):
            state = self._load_together(infos.get(name), name, readers)
            if state is not None:
                return infos[name], state
        return None

    def prune(self) -> None:
        """Delete all committed checkpoints but the newest `keep`, and what is uncommitted or
        damaged and older than those. Idempotent; safe from several processes."""
        infos = self.committed()
        if not infos:
            return
        kept = infos[: self._keep]
        doomed = [info.name for info in infos[self._keep :]]
        for info, files in self._directories():
            counts = MARKER in files and REJECTED not in files
            if not counts and info.step < kept[-1].step:
                doomed.append(info.name)
        for name in doomed:
            self._store.delete(f"{name}/{MARKER}")  # first: half of it must not count
            self._store.delete_tree(name)

    def _directories(self) -> list[tuple[CheckpointInfo, set[str]]]:
        """Checkpoint directories, committed or not, and the names of their files."""
        folders: dict[str, set[str]] = {}
        for path in self._store.files():
            folder, _, name = path.partition("/")
            folders.setdefault(folder, set()).add(name)
        found = [(parse_directory(folder), files) for folder, files in folders.items()]
        return [(info, files) for info, files in found if info is not None]

    def _commit_if_complete(self, folder: Store, info: CheckpointInfo) -> CheckpointInfo:
        """Listing is consistent, so the rank that writes its manifest last sees them all.

        Two that see them at once write the same bytes.
        """
        names = set(folder.files())
        if MARKER in names:
            return parse_marker(info, folder.read_json(MARKER))
        expected = [manifest_name(rank) for rank in range(info.world_size)]
        if not names.issuperset(expected):
            return info
        documents = [folder.read_bytes(name) for name in expected]
        manifests = [json.loads(document) for document in documents]
        committed = replace(
            info,
            metadata=manifests[0]["metadata"],
            committed=True,
            committed_at=max(manifest["saved_at"] for manifest in manifests),
            manifests=tuple(
                FileRecord(len(document), hashlib.sha256(document).hexdigest())
                for document in documents
            ),
        )
        folder.write_json(MARKER, committed.marker())
        return committed

    def _load_together(
        self, info: CheckpointInfo | None, name: str, readers: Readers
    ) -> dict[str, Any] | None:
        """The state, or None if a reader could not verify it; each makes the same collective
        calls."""
        here, state, reason = None, None, "not every reader could verify it"
        # A network file system keeps what is mapped under another name.
        with tempfile.TemporaryDirectory(
            prefix="checkpoint-", ignore_cleanup_errors=True
        ) as scratch:
            try:
                if readers.leads and info is not None:
                    self._fetch(info, Path(scratch))
                    here = scratch
            except CorruptFileError as error:
                reason = str(error)
                self._reject(name, reason)
            except StorageError:
                readers.from_leader(None)
                readers.all_agree(False)
                raise
            folder = readers.from_leader(here)
            if info is not None and folder is not None:
                with suppress(pickle.UnpicklingError):  # more than plain data
                    state = _read(info, Path(folder))
            loaded = readers.all_agree(state is not None)
        if not loaded:
            logger.warning("checkpoint %s is skipped: %s", name, reason)
        return state if loaded else None

    def _fetch(self, info: CheckpointInfo, folder: Path) -> None:
        """Verified copies of every part's pieces."""
        stored = self._store.child(info.name)
        files = {}
        for rank, record in enumerate(info.manifests):
            manifest = stored.read_json(manifest_name(rank), record)
            for piece, each in enumerate(manifest["files"]):
                files[state_name(rank, piece)] = parse_record(each)
        with ThreadPoolExecutor(FETCHES_AT_ONCE) as threads:
            names = list(files)
            list(threads.map(stored.fetch, names, map(folder.joinpath, names), files.values()))

    def _reject(self, name: str, reason: str) -> None:
        try:
            self._store.write_json(f"{name}/{REJECTED}", {"reason": reason})
        except StorageError as error:
            logger.warning("checkpoint %s could not be marked as damaged: %s", name, error)


def _read(info: CheckpointInfo, folder: Path) -> dict[str, Any]:
    """The state in fetched files; its tensors are mapped, not read."""
    parts = []
    for rank in range(info.world_size):
        pieces = []
        while (path := folder / state_name(rank, len(pieces))).exists():
            pieces.append(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
        parts.append(joined(pieces))
    return merged(parts)
