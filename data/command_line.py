"""What all commands of the jobs and the data share: one-line mistakes, exit codes."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from data.errors import ConfigError, JobError


class OneLineParser(argparse.ArgumentParser):
    """An argparse parser whose mistakes are one line."""

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
        sys.stderr.write("interrupted: what was committed stays; run again to go on\n")
        sys.exit(130)
    sys.exit(0)
