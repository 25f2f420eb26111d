"""What every command of the jobs and the data shares: one-line errors, exit codes, a logger.

logger = module_logger(__name__)

def main(argv: list[str]) -> None:
    flags = OneLineParser(prog="python -m data.build").parse_args(argv)

if __name__ == "__main__":
    run_main(main)
"""

import argparse
import logging
import sys
from collections.abc import Callable
from typing import NoReturn

from data.errors import ConfigError, JobError


def module_logger(name: str) -> logging.Logger:
    """The logger of a module that can be run as a command; `name` is its `__name__`.

    `python -m ray_jobs.sae.train` calls the module `__main__`. A logger of that name is not below
    `ray_jobs`, whose handler prints a job's lines, so its lines would be lost. This one always
    has the name under which the module is imported.
    """
    if name == "__main__":
        spec = sys.modules[name].__spec__  # None for a script that is run by its path
        name = spec.name if spec is not None else name
    return logging.getLogger(name)


class OneLineParser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError("command line", f"{message} (see {self.prog} --help)")


def run_main(main: Callable[[list[str]], None]) -> NoReturn:
    """Run an entry point; a JobError becomes one line on stderr and its exit code."""
    try:
        main(sys.argv[1:])
    except JobError as error:
        sys.stdout.flush()
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: what was committed is kept; rerun to resume\n")
        sys.exit(130)
    sys.exit(0)
