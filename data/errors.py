"""The error tree of the jobs and their data, with the exit code of each branch.

    JobError                  exit code 1
    ├── InputError            exit code 2: what the user can fix
    │   ├── ConfigError       a field of a recipe or a flag
    │   ├── DataError         a data set, a span, a model folder
    │   ├── StorageError      a bucket or a disk that cannot be used
    │   │   └── CorruptFileError   bytes that differ from their manifest
    │   ├── NonFiniteError    a NaN or infinity in activations or loss
    │   └── MicroBatchError   a micro batch that does not fit into memory
    └── RefusedError          exit code 3: refused for money or capacity

Every message is one line that says what is wrong, where, and the fix; an entry point
prints it and exits with `exit_code` (see `data.command_line.run_main`).
"""


class JobError(Exception):
    """A problem that ends a job and that its message explains."""

    exit_code = 1


class InputError(JobError):
    """A mistake, or a problem of the environment, that the user can fix."""

    exit_code = 2


class ConfigError(InputError):
    """A field of a recipe or a flag. The message starts with the field's name.

    `field` and `problem` travel in `args`, so that the error survives pickling between
    Ray's processes.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}"


class DataError(InputError):
    """A data set, a label or a model folder that cannot be used."""


class StorageError(InputError):
    """A bucket or a disk that cannot be read or written."""


class CorruptFileError(StorageError):
    """Stored bytes differ from the size or sha256 in their manifest."""


class NonFiniteError(InputError):
    """A NaN or an infinity in activations or loss."""


class MicroBatchError(InputError):
    """A micro batch of `rows` samples does not fit into a worker's memory."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows)
        self.rows = rows

    def __str__(self) -> str:
        return f"{self.rows} samples at once do not fit into a worker's memory"


class RefusedError(JobError):
    """Refused for money or capacity."""

    exit_code = 3
