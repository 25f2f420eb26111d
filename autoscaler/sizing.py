"""What Ray may count on, whichever candidate of a node type it gets: the least of each."""

import re
from collections.abc import Mapping, Sequence

from autoscaler.domain import InstanceType
from autoscaler.errors import ConfigError

MEMORY_SHARE = 0.7
"""Of a machine's memory; the rest is for the object store and the system."""
GIB = 1024**3
_ACCELERATORS = {"v100": "V100", "a10": "A10", "a100": "A100", "h100": "H100", "b200": "B200"}
"""Ray's names of the GPUs, by what stands in the names of Lambda's types."""


def resources_of(candidates: Sequence[InstanceType]) -> dict[str, int]:
    """Ray's resources of a node type; GPU and accelerator type only where all candidates agree."""
    least = {
        "CPU": min(candidate.vcpus for candidate in candidates),
        "memory": int(min(c.memory_gib for c in candidates) * GIB * MEMORY_SHARE),
    }
    if gpus := min(candidate.gpus for candidate in candidates):
        least["GPU"] = gpus
        accelerators = {_accelerator(candidate.name) for candidate in candidates}
        if len(accelerators) == 1 and (name := accelerators.pop()):
            least[f"accelerator_type:{name}"] = 1
    return least


def check_resources(
    where: str, resources: Mapping[str, float], candidates: Sequence[InstanceType]
) -> None:
    """Raises ConfigError where a candidate has less than Ray is told to count on."""
    for candidate in candidates:
        has = {
            "CPU": candidate.vcpus,
            "GPU": candidate.gpus,
            "memory": candidate.memory_gib * GIB,
        }
        for name, amount in has.items():
            if resources.get(name, 0) > amount:
                raise ConfigError(
                    f"{where}.resources.{name}: {resources[name]} is more than {candidate.name} "
                    f"has ({amount})"
                )


def _accelerator(instance_type: str) -> str | None:
    match = re.search(r"_\d+x_([a-z]+\d+)", instance_type)
    return _ACCELERATORS.get(match[1]) if match else None
