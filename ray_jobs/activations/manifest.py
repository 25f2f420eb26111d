"""The manifest of an activation set: its identity, its shards, and the sums over all rows.

    activations-1f0c9b2a77d3/
      shard-00000.safetensors   the bytes
      shard-00000.json          its ShardRecord, written after the bytes: this shard counts
      ...
      manifest.json             a SetManifest, written last: the set counts

The folder's name carries a digest of everything that decides the bytes (SetSpec), so that the
activations of two models, layers or data sets never mix.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from data.errors import CorruptFileError
from data.storage import FileRecord

FORMAT = "raylambda-activations-2"
MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class SetSpec:
    """Everything that decides the bytes of a set.

    fingerprint   of model weights, layer and dtype (HostPlan.fingerprint)
    data_sha256   of the documents and their order, as the caller knows it
    """

    model: str
    description: str
    fingerprint: str
    layer: int
    dtype: str
    data_sha256: str
    shard_rows: int

    @property
    def folder(self) -> str:
        """Name of the set's folder."""
        identity = [FORMAT, self.fingerprint, self.data_sha256, self.shard_rows]
        return f"activations-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class ShardRecord:
    """One finished shard.

    rows            activations in it
    first_document  document of its first row; last_document of its last row
    sinks           attention sinks among its rows (see `sinks`), and how many of them are the
                    first of their document
    sink_radius     of the rule that found them; None where no distance makes a sink
    sum, sum_squares  over its other bf16 rows, in float64: per dimension, and over all dimensions
    """

    index: int
    rows: int
    first_document: int
    last_document: int
    size_bytes: int
    sha256: str
    sinks: int
    first_sinks: int
    sink_radius: float | None
    sum: list[float]
    sum_squares: float

    def entry(self) -> "ShardEntry":
        """The record without its sums."""
        return ShardEntry(
            rows=self.rows,
            sinks=self.sinks,
            first_document=self.first_document,
            last_document=self.last_document,
            size_bytes=self.size_bytes,
            sha256=self.sha256,
        )


@dataclass(frozen=True)
class ShardEntry:
    """A shard as the manifest lists it: its record without the sums."""

    rows: int
    sinks: int
    first_document: int
    last_document: int
    size_bytes: int
    sha256: str

    @property
    def ordinary_rows(self) -> int:
        return self.rows - self.sinks

    @property
    def file(self) -> FileRecord:
        return FileRecord(size_bytes=self.size_bytes, sha256=self.sha256)


@dataclass(frozen=True)
class SetManifest:
    """A whole set.

    mean, scale   centre and scale its ordinary rows: E ||(x - mean) * scale||^2 = d_in
    n_sinks       attention sinks among its rows, of which `n_first_sinks` are first of a document
    sink_radius   distance from the mean beyond which they lie; None where no distance makes one
    """

    spec: SetSpec
    d_in: int
    n_documents: int
    n_rows: int
    n_sinks: int
    n_first_sinks: int
    sink_radius: float | None
    mean: list[float]
    scale: float
    shards: list[ShardEntry]

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, value: dict[str, Any], where: str) -> "SetManifest":
        """Errors: CorruptFileError when `value` is no manifest of this format."""
        try:
            if value["format"] != FORMAT:
                raise KeyError(value["format"])
            return cls(
                spec=SetSpec(**value["spec"]),
                shards=[ShardEntry(**entry) for entry in value["shards"]],
                **{key: value[key] for key in _FIELDS},
            )
        except (KeyError, TypeError) as error:
            raise CorruptFileError(f"{where} is no {FORMAT} manifest: delete it") from error


_FIELDS = (
    *("d_in", "n_documents", "n_rows", "n_sinks", "n_first_sinks", "sink_radius"),
    *("mean", "scale"),
)


def shard_name(index: int) -> str:
    """File name of a shard's bytes."""
    return f"shard-{index:05}.safetensors"


def record_name(index: int) -> str:
    """File name of a shard's record."""
    return f"shard-{index:05}.json"


def mean_and_scale(total: np.ndarray, sum_squares: float, n_rows: int) -> tuple[np.ndarray, float]:
    """Mean per dimension and scalar scale, from sums over `n_rows` rows (see SetManifest).

    Constant activations (variance 0) get scale 1.
    """
    mean = total / n_rows
    variance = sum_squares / n_rows - float(mean @ mean)
    return mean, float(np.sqrt(len(mean) / variance)) if variance > 0 else 1.0
