"""`python -m data.storage doctor URI`: exit code 0 if it can hold checkpoints and results,
2 if not."""

import logging
import sys

from data.command_line import OneLineParser
from data.errors import JobError
from data.storage.doctor import examine


def main(arguments: list[str] | None = None) -> int:
    parser = OneLineParser(prog="python -m data.storage", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser("doctor", help="check whether a bucket or directory can be used")
    doctor.add_argument(
        "uri", help="file:///..., s3://bucket/path?endpoint_override=..., or a path"
    )
    logging.basicConfig(level=logging.ERROR)  # retries would only blur the table
    try:
        options = parser.parse_args(arguments)
        return 0 if examine(options.uri, _say) else 2
    except JobError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
