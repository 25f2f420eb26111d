"""The command line of the simulator: flags, the server, and its machines, until SIGINT or SIGTERM.

`python -m autoscaler.simulator` and `raylambda sim` are this.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from autoscaler.simulator.cloud.clock import Clock, ScaledClock, VirtualClock
from autoscaler.simulator.cloud.config import CloudConfig
from autoscaler.simulator.cloud.faults import InstanceFault
from autoscaler.simulator.machines import probe
from autoscaler.simulator.machines.namespaces import (
    Namespaces,
    inherited_listener,
    restart_in_user_namespace,
)
from autoscaler.simulator.machines.relay import Relay
from autoscaler.simulator.server import SimulatedCloud

_DEFAULT_KEY = "sim"
_RENAMED_FIELDS = {"ails_within_s": "fails_within_s"}
"""Old names that `--set` still takes."""


def main(argv: Sequence[str] | None = None, prog: str = "python -m autoscaler.simulator") -> int:
    """Serves until SIGINT or SIGTERM, and prints the URL once it listens.

    The API key is `LAMBDA_API_KEY`, else `sim`. Returns the exit code: 0; 2 for invalid flags,
    a port in use, or a host that cannot make the machines; 3 from `--check` on such a host.
    """
    return _serve(_parser(prog).parse_args(argv))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog,
        description="Lambda Cloud's API on this machine. No instance of it costs anything.",
    )
    parser.add_argument(
        "--machines",
        choices=["none", "auto", "root", "user"],
        default="none",
        help="what an instance is: a record only (none), or a machine of namespaces with its own "
        "sshd, made as root or as user; auto: machines where this host can make them",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random draws")
    parser.add_argument(
        "--speed",
        type=float,
        default=1.0,
        help="cloud seconds per real second; 0: time stops until POST /sim/clock advances it",
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
        "--memory-gib", type=float, default=6.0, help="memory limit of a machine (root only)"
    )
    parser.add_argument(
        "--disk-gib", type=float, default=4.0, help="disk of a machine, which is in its memory"
    )
    parser.add_argument(
        "--run-dir", type=Path, help="folder for the machines' logs and file systems"
    )
    parser.add_argument(
        "--check", action="store_true", help="print whether this host can make machines, and exit"
    )
    parser.add_argument("--listener-fd", type=int, help=argparse.SUPPRESS)
    return parser


def _serve(args: argparse.Namespace) -> int:
    try:
        config = _config(args)
        clock = _clock(args.speed)
    except ValueError as error:
        return _usage_error(str(error))
    mode, reason = ("user", "") if args.listener_fd is not None else probe.choose(args.machines)
    if args.check:
        sys.stdout.write(f"{mode}\n")
        sys.stderr.write(f"{reason}\n" if reason else "")
        return 3 if reason else 0
    if mode == "user" and args.forward:
        return _usage_error("--forward: machines without root cannot reach this host's servers")
    if reason and args.machines != "auto":
        return _usage_error(f"--machines {args.machines}: {reason}")
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
        return _usage_error(f"cannot listen on {args.host}:{args.port}: {error}")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return 0


def _config(args: argparse.Namespace) -> CloudConfig:
    key = os.environ.get("LAMBDA_API_KEY") or _DEFAULT_KEY
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
    """A cloud that serves, as the lines that say how to use it; the URL is the first."""
    if mode == "none":
        with SimulatedCloud(config, clock=clock, host=args.host, port=args.port) as sim:
            yield [sim.url]
        return
    listener = None
    if mode == "user":
        if args.listener_fd is None:
            restart_in_user_namespace(args.host, args.port)
        listener = inherited_listener(args.listener_fd)
    with ExitStack() as stack:
        machines = stack.enter_context(
            Namespaces(
                mode,
                memory_limit_bytes=int(args.memory_gib * 2**30),
                disk_bytes=int(args.disk_gib * 2**30),
                run_dir=args.run_dir,
            )
        )
        sim = SimulatedCloud(
            config,
            clock=clock,
            machines=machines,
            host=args.host,
            port=args.port,
            also=(machines.host_address,),
            listener=listener,
        )
        machines.on_down = partial(_shut_down, sim)
        stack.enter_context(sim)
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


def _shut_down(sim: SimulatedCloud, instance_id: str) -> None:
    """A machine shut itself down: its instance does too, and is billed until it is terminated."""
    with suppress(ValueError):  # terminated and forgotten in the meantime
        sim.add_fault(InstanceFault("shutdown", instance_id=instance_id))


def _usage_error(message: str) -> int:
    sys.stderr.write(f"{message}\n")
    return 2
