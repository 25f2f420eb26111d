"""Saves, finds, verifies and prunes checkpoints in one directory or bucket prefix."""

import hashlib
import json
import logging
import pickle
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

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
from ray_jobs.checkpoint.state import compact, plain_state
from ray_jobs.errors import ConfigError, CorruptFileError, StorageError
from ray_jobs.storage import FileRecord, Store

logger = logging.getLogger(__name__)
T = TypeVar("T")


def identity(value: T) -> T:
    return value


class CheckpointStore:
    """The single truth about a run's checkpoints: what is committed here exists.

    A replicated state is saved by one process (world size 1) and loaded by all; a sharded
    one is saved by every rank and loaded at the same world size.
    """

    def __init__(self, store: Store, keep: int = 3, clock: Callable[[], float] = time.time) -> None:
        if keep < 1:
            raise ConfigError("keep", f"is {keep}; must be >= 1")
        self._store = store
        self._keep = keep
        self._clock = clock

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
        """Stores this rank's part; the rank that comes last commits (`info.committed`).

        Rank 0's `metadata`, JSON, becomes the checkpoint's. A failure raises StorageError and
        leaves nothing committed; a repeated call completes or returns what is there.
        """
        info = CheckpointInfo(step, world_size, attempt)
        if not 0 <= rank < world_size:
            raise ConfigError("rank", f"is {rank}; must be in 0..{world_size - 1}")
        plain = plain_state(state, compact)
        metadata = json.loads(json.dumps(metadata))
        folder = self._store.child(info.name)
        if not folder.exists(manifest_name(rank)):
            record = folder.write_stream(state_name(rank), lambda out: torch.save(plain, out))
            manifest = {"rank": rank, "metadata": metadata, "saved_at": self._clock()}
            folder.write_json(manifest_name(rank), manifest | record_json(record))
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
                logger.warning("checkpoint %s is passed over: %s", info.name, error)
            except StorageError:
                if self._store.exists(f"{info.name}/{MARKER}"):
                    raise
                # Another process pruned it since the listing.
        return sorted(infos, key=lambda info: (info.step, info.committed_at), reverse=True)

    def load_newest(
        self,
        *,
        rank: int = 0,
        all_agree: Callable[[bool], bool] = identity,
        from_rank_zero: Callable[[list[str]], list[str]] = identity,
    ) -> tuple[CheckpointInfo, dict[str, Any]] | None:
        """The newest checkpoint that verifies on every rank, on the CPU; None when there is none.

        `all_agree` is a logical AND over all ranks, `from_rank_zero` hands out rank 0's list.
        A damaged one is marked, so that it never counts again, and the one before is taken.
        A server that cannot be reached is no reason to go back: that raises StorageError.
        """
        infos = {info.name: info for info in self.committed()}
        for name in from_rank_zero(list(infos)):
            state, reason = None, "not every rank could verify it"
            try:
                if name in infos:
                    state = self._load(infos[name], rank)
            except CorruptFileError as error:
                reason = str(error)
                self._reject(name, reason)
            except StorageError:
                all_agree(False)
                raise
            if all_agree(state is not None) and state is not None:
                return infos[name], state
            logger.warning("checkpoint %s is passed over: %s", name, reason)
        return None

    def prune(self) -> None:
        """Keeps the newest `keep` committed ones; of the rest, deletes what is older than those.

        Uncommitted and damaged directories go once they are older than the oldest kept one.
        Never deletes the newest committed one. Idempotent; safe from several processes.
        """
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
            self._store.delete(f"{name}/{MARKER}")  # first: no half of it may count
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

    def _load(self, info: CheckpointInfo, rank: int) -> dict[str, Any]:
        if info.world_size == 1:
            rank = 0
        elif rank >= info.world_size:
            raise StorageError(
                f"checkpoint {info.name} was saved in {info.world_size} shards and has none for "
                f"rank {rank}; start as many processes as saved it"
            )
        folder = self._store.child(info.name)
        manifest = folder.read_json(manifest_name(rank), info.manifests[rank])
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as scratch:
            local = Path(scratch) / state_name(rank)
            folder.fetch(state_name(rank), local, parse_record(manifest))
            try:
                return torch.load(local, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                raise CorruptFileError(f"{info.name} holds more than plain data") from error

    def _reject(self, name: str, reason: str) -> None:
        try:
            self._store.write_json(f"{name}/{REJECTED}", {"reason": reason})
        except StorageError as error:
            logger.warning("checkpoint %s could not be marked as damaged: %s", name, error)
