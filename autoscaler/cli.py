"""`raylambda`: what Ray's own commands do not show of a cluster, a simulated cloud, and what the
command runner sends to a head.

Each command imports what it needs when it runs, so that help and mistakes are answered at once.
"""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from autoscaler.errors import AutoscalerError

LAST_EVENTS = 12

app = typer.Typer(
    help="Ray clusters on Lambda Cloud.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def status(
    cluster: Annotated[str | None, typer.Option(help="Only this cluster.")] = None,
    events: Annotated[int, typer.Option(help="How many of the last events.")] = LAST_EVENTS,
    local: Annotated[bool, typer.Option("--local", help="Only this machine's records.")] = False,
    json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> int:
    """What runs and costs, what is unavailable, what happened."""
    from autoscaler.commands import status as command

    return command.run(cluster, events, local=local, as_json=json)


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    }
)
def sim(context: typer.Context) -> int:
    """Serve a simulated Lambda Cloud (flags: raylambda sim --help)."""
    # The simulator is a program of its own, which parses its flags itself.
    from autoscaler.simulator.command import main as simulate

    return simulate(context.args, prog="raylambda sim")


@app.command()
def version() -> None:
    """Which code this is, with the versions of Ray and Python."""
    from autoscaler.commands.check_head import describe

    sys.stdout.write(f"{describe()}\n")


@app.command("check-head")
def check_head() -> None:
    """On a head: whether Ray's autoscaler is at work."""
    from autoscaler.commands.check_head import describe, wait_for_monitor

    which = wait_for_monitor()
    sys.stdout.write(f"autoscaler {which} is at work: {describe()}\n")


@app.command(hidden=True)
def charges() -> int:
    """On a head: report what its machines have cost."""
    from autoscaler.commands.end_cluster import report_charges

    return report_charges()


@app.command("end-cluster", hidden=True)
def end_cluster() -> int:
    """On a head: terminate its whole cluster."""
    from autoscaler.commands.end_cluster import main as end

    return end()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 2 for what the user can fix, 130 for ^C."""
    try:
        return app(argv, prog_name="raylambda", standalone_mode=False) or 0
    except AutoscalerError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except typer.TyperException as error:
        message = " ".join(error.format_message().split()).rstrip(".")
        sys.stderr.write(f"error: {message} (see raylambda --help)\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
