"""`JobOptions`: the flags that every job has, wherever it runs."""

from dataclasses import dataclass

from data.errors import ConfigError
from ray_jobs.fields import Count, Natural, check_fields


@dataclass(frozen=True)
class JobOptions:
    """Where a job runs and what it may use; the same for every job."""

    # Results and machines
    output_dir: str = "runs/latest"
    """Run directory for the results: a local path, file:// or s3:// URI."""

    storage: str | None = None
    """Directory for data, activations and checkpoints, shared by runs; default: the output_dir."""

    num_workers: str = "1"
    """Training workers: "4", or "1-4" for as many as there are at any time."""

    use_gpu: bool | None = None
    """Whether each worker takes a GPU; default: if the cluster has any or can start any."""

    cpus_per_worker: Count | None = None
    """CPUs of each worker; default: the nodes' CPUs shared out, or 1 with a GPU."""

    max_failures: Natural = 3
    """How often the workers are started again after one of them died."""

    price_cents_per_hour: Natural | None = None
    """Price of the machines in cents per hour, to show the cost so far."""

    def __post_init__(self) -> None:
        low, high = self.worker_range
        if not 1 <= low <= high:
            raise ConfigError("num_workers", f'must be "N" or "LOW-HIGH", not {self.num_workers!r}')
        check_fields(self)

    @property
    def worker_range(self) -> tuple[int, int]:
        """Fewest and most workers; (0, 0) for what cannot be read."""
        low, _, high = self.num_workers.partition("-")
        try:
            return int(low), int(high or low)
        except ValueError:
            return 0, 0

    @property
    def storage_uri(self) -> str:
        """`storage`, or the output directory."""
        return self.storage or self.output_dir
