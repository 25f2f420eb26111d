"""`raylambda`: what of the cluster Ray's own commands do not show.

raylambda status        what runs and costs, what is closed until when, what happened
raylambda sim           a Lambda Cloud of one's own
raylambda version       which code this is
raylambda check-head    on a head: whether Ray's autoscaler is at work
"""

import argparse
import sys
from collections.abc import Sequence

from autoscaler.commands import end_cluster
from autoscaler.commands import status as status_command
from autoscaler.commands.check_head import describe, wait_for_monitor
from autoscaler.errors import AutoscalerError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 2 for what the user can mend, 130 for ^C."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["sim"]:
        # Imported only here: the rest of the product does not know the simulator.
        from autoscaler.simulator.command import main as simulate

        return simulate(words[1:], prog="raylambda sim")
    args = _parser().parse_args(words)
    try:
        return args.run(args)
    except AutoscalerError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="raylambda", description="Ray clusters on Lambda Cloud.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    status = commands.add_parser("status", help="what runs, what it costs, what is sold out")
    status_command.add_arguments(status)
    status.set_defaults(run=status_command.run)
    commands.add_parser("sim", help="serve a simulated Lambda Cloud")
    version = commands.add_parser("version", help="which code this is")
    version.set_defaults(run=_version)
    check = commands.add_parser("check-head", help="on a head: is Ray's autoscaler at work?")
    check.set_defaults(run=_check_head)
    charges = commands.add_parser("charges", help="on a head: what its machines have cost")
    charges.set_defaults(run=_charges)
    end = commands.add_parser("end-cluster", help="on a head: end its whole cluster")
    end.set_defaults(run=_end_cluster)
    return parser


def _version(args: argparse.Namespace) -> int:
    sys.stdout.write(f"{describe()}\n")
    return 0


def _check_head(args: argparse.Namespace) -> int:
    which = wait_for_monitor()
    sys.stdout.write(f"autoscaler {which} is at work: {describe()}\n")
    return 0


def _charges(args: argparse.Namespace) -> int:
    return end_cluster.report_charges()


def _end_cluster(args: argparse.Namespace) -> int:
    return end_cluster.main()


if __name__ == "__main__":
    sys.exit(main())
