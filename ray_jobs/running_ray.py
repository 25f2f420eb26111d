"""The Ray that a job joins, if one runs."""

import os
import socket
from pathlib import Path

from data.errors import InputError

_ANSWER_TIMEOUT_S = 10.0


def address_to_join() -> str | None:
    """What `ray.init` is to be told: None, to find its way itself, or "local".

    Ray itself would try for a quarter of an hour where nothing answers, and then say what only
    its makers understand. `ray start` notes its address in a file that only `ray stop` removes:
    one left by a Ray that was ended otherwise leads nowhere.

    Raises:
        InputError: no Ray is at RAY_ADDRESS.
    """
    asked = os.environ.get("RAY_ADDRESS", "")
    if asked:
        if asked not in ("local", "auto"):
            try:
                _knock(asked.removeprefix("ray://"))
            except (OSError, ValueError) as error:
                raise no_ray_at(asked, error) from error
        return None
    noted = Path(os.environ.get("RAY_TMPDIR") or "/tmp", "ray", "ray_current_cluster")
    try:
        _knock(noted.read_text().strip())
    except (OSError, ValueError):
        return "local"
    return None


def no_ray_at(address: str, why: Exception) -> InputError:
    return InputError(
        f"RAY_ADDRESS is {address!r}, and no Ray answers there ({why}): give the head's "
        "host:port, or unset it for a Ray of this machine"
    )


def _knock(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise ValueError("it names no port")
    socket.create_connection((host, int(port)), _ANSWER_TIMEOUT_S).close()
