"""The command that serves a simulated cloud until it is told to stop."""

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from autoscaler.simulator.cloud.clock import Clock, ScaledClock, VirtualClock
from autoscaler.simulator.cloud.config import CloudConfig
from autoscaler.simulator.cloud.faults import InstanceFault
from autoscaler.simulator.machines import probe
from autoscaler.simulator.machines.namespaces import Namespaces
from autoscaler.simulator.machines.network import inherited_listener, restart_inside
from autoscaler.simulator.machines.relay import Relay
from autoscaler.simulator.server import SimulatedCloud

# A simulated cloud whose instances are real machines.


@contextmanager
def cloud_of_machines(
    config: CloudConfig | None = None,
    *,
    mode: Literal["root", "user"] = "root",
    clock: Clock | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    listener: socket.socket | None = None,
    memory_limit_bytes: int = 6 * 2**30,
    disk_bytes: int = 4 * 2**30,
    run_dir: Path | None = None,
) -> Iterator[tuple[SimulatedCloud, Namespaces]]:
    """Serves on `host` and, at the same port, on the address at which machines reach this host.

    A machine that shuts itself down becomes an instance that does, and goes on billing. All
    machines end with the block. OSError when the network or the port cannot be had.
    """
    with Namespaces(
        mode, memory_limit_bytes=memory_limit_bytes, disk_bytes=disk_bytes, run_dir=run_dir
    ) as machines:
        sim = SimulatedCloud(
            config,
            clock=clock or ScaledClock(),
            machines=machines,
            host=host,
            port=port,
            also=(machines.host_address,),
            listener=listener,
        )

        def shut_down(instance_id: str) -> None:
            with contextlib.suppress(ValueError):  # ended and forgotten meanwhile
                sim.add_fault(InstanceFault("shutdown", instance_id=instance_id))

        machines.on_down = shut_down
        with sim:
            yield sim, machines


DEFAULT_KEY = "sim"
_RENAMED_FIELDS = {"ails_within_s": "fails_within_s"}
"""Old names that `--set` still takes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags on a parser, own or of a larger command."""
    parser.add_argument(
        "--machines",
        choices=["none", "auto", "root", "user"],
        default="none",
        help="what instances are: records only, or machines of namespaces with their own sshd, "
        "made with root or without; auto: machines where they are possible",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--seed", type=int, default=0, help="seed of every draw")
    parser.add_argument(
        "--speed",
        type=float,
        default=1.0,
        help="cloud seconds per real second; 0: time stands still until POST /sim/clock",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=JSON",
        help="a field of the cloud's config: --set 'terminating_s=[1, 2]'",
    )
    parser.add_argument(
        "--forward",
        action="append",
        type=int,
        default=[],
        metavar="PORT",
        help="a port of this host's 127.0.0.1 that machines may reach at the host's address",
    )
    parser.add_argument(
        "--memory-gib", type=float, default=6.0, help="most memory of a machine (with root)"
    )
    parser.add_argument(
        "--disk-gib", type=float, default=4.0, help="most files of a machine, in its memory"
    )
    parser.add_argument("--run-dir", type=Path, help="for the machines' logs and file systems")
    parser.add_argument(
        "--check", action="store_true", help="only say whether machines can be made here"
    )
    parser.add_argument("--listener-fd", type=int, help=argparse.SUPPRESS)


def serve(args: argparse.Namespace) -> int:
    """Serves until SIGINT or SIGTERM, and prints the URL once it listens.

    The key is that of `LAMBDA_API_KEY`, else `sim`. Returns the exit code: 0, or 2 for flags
    or a port that cannot be, or for machines that cannot be made.
    """
    try:
        config = _config(args)
        clock = _clock(args.speed)
    except ValueError as error:
        return _mistake(str(error))
    mode, reason = ("user", "") if args.listener_fd is not None else probe.choose(args.machines)
    if args.check:
        sys.stdout.write(f"{mode}\n")
        sys.stderr.write(f"{reason}\n" if reason else "")
        return 3 if reason else 0
    if mode == "user" and args.forward:
        return _mistake("--forward: machines without root have no way to this host's servers")
    if reason and args.machines != "auto":
        return _mistake(f"--machines {args.machines}: {reason}")
    if reason:
        sys.stderr.write(f"no machines, records only: {reason}\n")
    stop = {signal.SIGINT, signal.SIGTERM}
    # Blocked before the server's thread starts, which inherits it: sigwait is then the only
    # receiver, and a signal that comes early is not lost.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    try:
        with _cloud(args, mode, config, clock) as lines:
            sys.stdout.write("".join(f"{line}\n" for line in lines))
            sys.stdout.flush()
            signal.sigwait(stop)
    except (OSError, OverflowError) as error:
        return _mistake(f"cannot listen on {args.host}:{args.port}: {error}")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return 0


def _config(args: argparse.Namespace) -> CloudConfig:
    key = os.environ.get("LAMBDA_API_KEY") or DEFAULT_KEY
    known = {f.name for f in fields(CloudConfig)} - {"seed", "api_keys"}
    given: dict[str, Any] = {}
    for setting in args.set:
        name, _, text = setting.partition("=")
        name = _RENAMED_FIELDS.get(name, name)
        if name not in known:
            raise ValueError(f"--set {setting}: the cloud's config has no field {name!r}")
        try:
            value = json.loads(text)
        except ValueError:
            raise ValueError(f"--set {setting}: not JSON after the =") from None
        given[name] = tuple(value) if isinstance(value, list) else value
    try:
        return CloudConfig(seed=args.seed, api_keys=(key,), **given)
    except TypeError as error:
        raise ValueError(f"--set: a value is of the wrong type ({error})") from None


def _clock(speed: float) -> Clock:
    if speed < 0:
        raise ValueError(f"--speed: {speed} must not be negative")
    return ScaledClock(speed) if speed > 0 else VirtualClock()


@contextmanager
def _cloud(
    args: argparse.Namespace, mode: probe.Mode, config: CloudConfig, clock: Clock
) -> Iterator[list[str]]:
    """A cloud that serves, as the lines that tell how to use it; the URL is the first."""
    if mode == "none":
        with SimulatedCloud(config, clock=clock, host=args.host, port=args.port) as sim:
            yield [sim.url]
        return
    listener = None
    if mode == "user":
        if args.listener_fd is None:
            restart_inside(args.host, args.port)
        listener = inherited_listener(args.listener_fd)
    with ExitStack() as stack:
        sim, machines = stack.enter_context(
            cloud_of_machines(
                config,
                mode=mode,
                clock=clock,
                host=args.host,
                port=args.port,
                listener=listener,
                memory_limit_bytes=int(args.memory_gib * 2**30),
                disk_bytes=int(args.disk_gib * 2**30),
                run_dir=args.run_dir,
            )
        )
        for port in args.forward:
            stack.enter_context(Relay(machines.host_address, port))
        inside = f"http://{machines.host_address}:{sim.port}"
        kind = "root" if mode == "root" else "user, no memory limit"
        about = f"machines ({kind}) on {machines.bridge.network}, logs in {machines.run_dir}/log"
        if mode == "root":
            yield [inside, about]
        else:
            enter = f"nsenter --preserve-credentials -U -n -t {os.getpid()} --"
            yield [sim.url, about, f"from the machines: {inside}", f"to them: {enter} COMMAND"]


def _mistake(message: str) -> int:
    sys.stderr.write(f"{message}\n")
    return 2


def main(argv: Sequence[str] | None = None, prog: str = "python -m autoscaler.simulator") -> int:
    """Entry of `python -m autoscaler.simulator` and `raylambda sim`."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Lambda Cloud's API on this machine. No instance of it costs anything.",
    )
    add_arguments(parser)
    return serve(parser.parse_args(argv))
