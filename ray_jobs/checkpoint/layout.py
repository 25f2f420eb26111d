"""The files of a checkpoint directory: their names and JSON documents.

    step-00001200-w2-a3f9c1/       step, number of saving processes, attempt
        rank-00000.pt              a process's part, for `torch.load(weights_only=True)`
        rank-00000-1.pt            its next piece (`ray_jobs.checkpoint.state`), and so on
        rank-00000.json            its manifest: sizes and sha256, written after the pieces
        COMMITTED.json             written last: the manifests' own sizes and sha256
        REJECTED.json              written by a reader that found the checkpoint damaged

The attempt is new at every start of the processes, so that no directory mixes files of two starts.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from data.errors import ConfigError, CorruptFileError
from data.storage import FileRecord

MARKER = "COMMITTED.json"
REJECTED = "REJECTED.json"
_DIRECTORY = re.compile(r"step-(?P<step>\d{8,})-w(?P<world>[1-9]\d*)-(?P<attempt>[a-z0-9]{1,32})")
_ATTEMPT = re.compile(r"[a-z0-9]{1,32}")
_FORMAT = 2


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint, as its directory's name and its COMMITTED.json describe it.

    `committed_at` is Unix time, 0.0 while `committed` is False; `manifests` is by rank.
    """

    step: int
    world_size: int
    attempt: str
    metadata: dict[str, Any] = field(default_factory=dict)
    committed: bool = False
    committed_at: float = 0.0
    manifests: tuple[FileRecord, ...] = ()

    def __post_init__(self) -> None:
        if self.step < 0:
            raise ConfigError("step", f"is {self.step}; must be >= 0")
        if self.world_size < 1:
            raise ConfigError("world_size", f"is {self.world_size}; must be >= 1")
        if not _ATTEMPT.fullmatch(self.attempt):
            raise ConfigError("attempt", f"is {self.attempt!r}; must be 1-32 of a-z and 0-9")

    @property
    def name(self) -> str:
        """The directory's."""
        return f"step-{self.step:08d}-w{self.world_size}-{self.attempt}"

    def marker(self) -> dict[str, Any]:
        """The content of COMMITTED.json."""
        return {
            "format": _FORMAT,
            "metadata": self.metadata,
            "committed_at": self.committed_at,
            "manifests": [record_json(record) for record in self.manifests],
        }


def parse_directory(name: str) -> CheckpointInfo | None:
    """An uncommitted info; None for a directory that is not a checkpoint's."""
    found = _DIRECTORY.fullmatch(name)
    if found is None:
        return None
    return CheckpointInfo(int(found["step"]), int(found["world"]), found["attempt"])


def parse_marker(info: CheckpointInfo, marker: Any) -> CheckpointInfo:
    """The committed info that a COMMITTED.json describes.

    Raises:
        CorruptFileError: it is damaged, or of another version of the format.
    """
    try:
        if marker["format"] != _FORMAT:
            raise CorruptFileError(f"{info.name} is of another version of this program")
        committed = CheckpointInfo(
            info.step,
            info.world_size,
            info.attempt,
            dict(marker["metadata"]),
            True,
            float(marker["committed_at"]),
            tuple(parse_record(record) for record in marker["manifests"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(f"{info.name}/{MARKER} is damaged; delete it") from error
    if len(committed.manifests) != info.world_size:
        raise CorruptFileError(f"{info.name}/{MARKER} names too few manifests; delete it")
    return committed


def record_json(record: FileRecord) -> dict[str, Any]:
    return {"size_bytes": record.size_bytes, "sha256": record.sha256}


def parse_record(value: Any) -> FileRecord:
    return FileRecord(int(value["size_bytes"]), str(value["sha256"]))


def state_name(rank: int, piece: int = 0) -> str:
    return f"rank-{rank:05d}-{piece}.pt" if piece else f"rank-{rank:05d}.pt"


def manifest_name(rank: int) -> str:
    return f"rank-{rank:05d}.json"
