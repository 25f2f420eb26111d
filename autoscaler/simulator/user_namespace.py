"""Machines without root: this process becomes root of a user namespace of its own."""

import os
import socket
import sys
from typing import NoReturn

from autoscaler.simulator.machines.network import ip_command


def restart_inside(host: str, port: int) -> NoReturn:
    """Runs this very command again as root of a new user namespace with a network of its own.

    The process stays the same. What serves outside the namespace is a socket made before: its
    descriptor is given on as `--listener-fd`. OSError when the port is taken.
    """
    listener = socket.create_server((host, port))
    listener.set_inheritable(True)
    again = [sys.executable, *sys.orig_argv[1:], "--listener-fd", str(listener.fileno())]
    namespaces = ("--user", "--map-root-user", "--net", "--mount", "--propagation", "private")
    os.execvp("unshare", ["unshare", *namespaces, "--", *again])


def inherited_listener(descriptor: int) -> socket.socket:
    """The socket of `restart_inside`, in the namespace; its loopback is up from now on."""
    ip_command("link", "set", "lo", "up")
    return socket.socket(fileno=descriptor)
