"""The Ray of this machine that a job joins, if one runs."""

import os
import socket
from pathlib import Path

_ANSWER_TIMEOUT_S = 5.0


def address_to_join() -> str | None:
    """What `ray.init` is to be told: None, to find its way itself, or "local".

    `ray start` notes its address in a file that only `ray stop` removes. One left by a Ray
    that was ended otherwise makes `ray.init` try for a quarter of an hour and then fail.
    """
    if os.environ.get("RAY_ADDRESS"):
        return None
    noted = Path(os.environ.get("RAY_TMPDIR") or "/tmp", "ray", "ray_current_cluster")
    try:
        host, _, port = noted.read_text().strip().rpartition(":")
        socket.create_connection((host, int(port)), _ANSWER_TIMEOUT_S).close()
    except (OSError, ValueError):
        return "local"
    return None
