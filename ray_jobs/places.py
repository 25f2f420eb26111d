"""Where a job reads and writes: places that last, that can be written, and that all nodes share."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from data.errors import ConfigError
from data.storage.probe import Probe, probed


@contextmanager
def places(output_dir: str, storage: str | None) -> Iterator[Probe]:
    """Shows that a job's places can be used; its workers check that theirs are the same ones.

    Ray is initialised. `storage` None: the output_dir.

    Raises:
        ConfigError: a place lies in the copy of the working directory that Ray made for a
            submitted job, and deletes after it.
        StorageError: a place cannot be written.
    """
    in_copy = bool(ray.get_runtime_context().runtime_env.get("working_dir"))
    for name, place in (("output_dir", output_dir), ("storage", storage)):
        if in_copy and place is not None and "://" not in place and not os.path.isabs(place):
            raise ConfigError(
                name,
                f"{place!r} lies in this job's copy of the working directory, which Ray deletes: "
                "give s3://bucket/path, or the absolute path of a directory that all nodes share",
            )
    with probed([output_dir, storage or output_dir]) as probe:
        yield probe
