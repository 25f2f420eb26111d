"""What the simulated cloud sells: regions, instance types with prices, images, and capacity.

Prices and sizes are those of Lambda's public price list in mid-2026. They serve the simulation
only: the product reads prices live.
"""

import random
from bisect import bisect_right
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from autoscaler.simulator.cloud.config import CloudConfig


@dataclass(frozen=True)
class InstanceType:
    """One line of the price list. Sizes in GiB; the price, of all GPUs together, in US cents."""

    name: str
    gpu_description: str
    price_cents_per_hour: int
    vcpus: int
    memory_gib: int
    storage_gib: int
    gpus: int

    @property
    def architecture(self) -> str:
        """`x86_64`, or `arm64` for Grace."""
        return "arm64" if "gh200" in self.name else "x86_64"

    @property
    def size_class(self) -> str:
        """`cpu`, `single` (one GPU) or `multi`: boot times depend on it."""
        return ("cpu", "single")[self.gpus] if self.gpus < 2 else "multi"


@cache
def type_json(t: InstanceType) -> dict[str, Any]:
    """The API's `InstanceType` object. Cached: do not change it."""
    gpu = f"{t.gpus}x {t.gpu_description}" if t.gpus else f"{t.vcpus} vCPUs"
    return {
        "name": t.name,
        "description": gpu,
        "gpu_description": t.gpu_description if t.gpus else "N/A",
        "price_cents_per_hour": t.price_cents_per_hour,
        "specs": {
            "vcpus": t.vcpus,
            "memory_gib": t.memory_gib,
            "storage_gib": t.storage_gib,
            "gpus": t.gpus,
        },
    }


@dataclass(frozen=True)
class Image:
    """A machine image in one region."""

    id: str
    name: str
    family: str
    version: str
    architecture: str
    region: str

    def to_json(self) -> dict[str, Any]:
        """The API's `Image` object."""
        return {
            "id": self.id,
            "created_time": "2026-01-01T00:00:00Z",
            "updated_time": "2026-01-01T00:00:00Z",
            "name": self.name,
            "description": f"{self.family} for {self.architecture}",
            "family": self.family,
            "version": self.version,
            "architecture": self.architecture,
            "region": region_json(self.region),
        }


TYPES: dict[str, InstanceType] = {
    t.name: t
    for t in (
        InstanceType("cpu_4x_general", "", 20, 4, 16, 102, 0),
        InstanceType("gpu_1x_rtx6000", "RTX 6000 (24 GB)", 69, 14, 46, 512, 1),
        InstanceType("gpu_1x_a6000", "A6000 (48 GB)", 109, 14, 100, 512, 1),
        InstanceType("gpu_2x_a6000", "A6000 (48 GB)", 218, 28, 200, 1024, 2),
        InstanceType("gpu_4x_a6000", "A6000 (48 GB)", 436, 56, 400, 1024, 4),
        InstanceType("gpu_1x_a10", "A10 (24 GB PCIe)", 129, 30, 226, 1434, 1),
        InstanceType("gpu_1x_a100", "A100 (40 GB PCIe)", 199, 30, 225, 512, 1),
        InstanceType("gpu_1x_a100_sxm4", "A100 (40 GB SXM4)", 199, 30, 220, 512, 1),
        InstanceType("gpu_2x_a100", "A100 (40 GB PCIe)", 398, 60, 450, 1024, 2),
        InstanceType("gpu_4x_a100", "A100 (40 GB PCIe)", 796, 120, 900, 1024, 4),
        InstanceType("gpu_8x_a100", "A100 (40 GB SXM4)", 1592, 124, 1800, 6144, 8),
        InstanceType("gpu_8x_a100_80gb_sxm4", "A100 (80 GB SXM4)", 2232, 240, 1800, 20480, 8),
        InstanceType("gpu_1x_h100_pcie", "H100 (80 GB PCIe)", 329, 26, 225, 1024, 1),
        InstanceType("gpu_1x_h100_sxm5", "H100 (80 GB SXM5)", 429, 26, 225, 2816, 1),
        InstanceType("gpu_2x_h100_sxm5", "H100 (80 GB SXM5)", 838, 52, 450, 5632, 2),
        InstanceType("gpu_4x_h100_sxm5", "H100 (80 GB SXM5)", 1636, 104, 900, 11264, 4),
        InstanceType("gpu_8x_h100_sxm5", "H100 (80 GB SXM5)", 3192, 208, 1800, 22528, 8),
        InstanceType("gpu_1x_gh200", "GH200 (96 GB)", 229, 64, 432, 4096, 1),
        InstanceType("gpu_1x_b200_sxm6", "B200 (180 GB SXM6)", 699, 26, 360, 2867, 1),
        InstanceType("gpu_8x_b200_sxm6", "B200 (180 GB SXM6)", 5352, 208, 2900, 22528, 8),
    )
}

REGIONS: dict[str, str] = {
    "us-east-1": "Virginia, USA",
    "us-east-2": "Washington DC, USA",
    "us-east-3": "Washington DC, USA",
    "us-southeast-1": "Georgia, USA",
    "us-midwest-1": "Illinois, USA",
    "us-midwest-2": "Illinois, USA",
    "us-south-1": "Texas, USA",
    "us-south-2": "North Texas, USA",
    "us-south-3": "Central Texas, USA",
    "us-west-1": "California, USA",
    "us-west-2": "Arizona, USA",
    "us-west-3": "Utah, USA",
    "asia-northeast-1": "Osaka, Japan",
    "asia-northeast-2": "Tokyo, Japan",
    "asia-south-1": "India",
    "europe-central-1": "Germany",
    "europe-south-1": "Italy",
    "me-west-1": "Israel",
    "australia-east-1": "Sydney, Australia",
    "australia-southeast-1": "Melbourne, Australia",
}

DEFAULT_FAMILY = "lambda-stack-22-04"
_FAMILIES = {
    DEFAULT_FAMILY: "22.04.5",
    "lambda-stack-24-04": "24.04.2",
    "gpu-base-24-04": "24.04.2",
}


@cache
def region_json(name: str) -> dict[str, str]:
    """The API's `Region` object. Cached: do not change it."""
    return {"name": name, "description": REGIONS[name]}


def _images() -> dict[str, Image]:
    made: dict[str, Image] = {}
    for family, version in _FAMILIES.items():
        for architecture in ("x86_64", "arm64"):
            for region in REGIONS:
                number = f"{len(made) + 1:012x}"
                image_id = f"43336648-096d-4cba-9aa2-{number}"
                name = f"{family}-{architecture.replace('_', '-')}"
                made[image_id] = Image(image_id, name, family, version, architecture, region)
    return made


IMAGES: dict[str, Image] = _images()


class Capacity:
    """When an offering (instance type and region) has capacity: in windows, at random, or always.

    Random spells are drawn from the seed and the offering's name, so they do not depend on
    when, or in which order, offerings are asked for.
    """

    def __init__(self, config: CloudConfig, began_at: float) -> None:
        self._config = config
        self._began_at = began_at
        self._toggles: dict[tuple[str, str], _Toggles] = {}

    def open(self, instance_type: str, region: str, at: float) -> bool:
        """Whether the offering has capacity at a cloud time."""
        t = max(0.0, at - self._began_at)
        matching = [
            w
            for w in self._config.windows
            if fnmatchcase(instance_type, w.instance_type) and fnmatchcase(region, w.region)
        ]
        if matching:
            return any(w.opens_s <= t < w.closes_s for w in matching)
        mean_open_s = self._config.mean_open_s
        if mean_open_s is None:
            return True
        offering = (instance_type, region)
        if offering not in self._toggles:
            seed = f"{self._config.seed} capacity {instance_type} {region}"
            self._toggles[offering] = _Toggles(seed, mean_open_s, self._config.mean_closed_s)
        return self._toggles[offering].open(t)

    def advertised(self, instance_type: str, region: str, at: float) -> bool:
        """Whether `/instance-types` shows the offering: its capacity `advertised_lag_s` ago."""
        return self.open(instance_type, region, at - self._config.advertised_lag_s)


class _Toggles:
    """Alternating open and closed spells of exponential length, drawn as far as asked for."""

    def __init__(self, seed: str, mean_open_s: float, mean_closed_s: float) -> None:
        self._means = (mean_closed_s, mean_open_s)
        self._rng = random.Random(seed)
        self._open_at_first = self._rng.random() < mean_open_s / (mean_open_s + mean_closed_s)
        self._times = [0.0]

    def open(self, t: float) -> bool:
        while self._times[-1] <= t:
            is_open = self._open_at_first == (len(self._times) % 2 == 1)
            self._times.append(self._times[-1] + self._rng.expovariate(1 / self._means[is_open]))
        spell = bisect_right(self._times, t) - 1
        return self._open_at_first == (spell % 2 == 0)
