"""What a cluster's head knows and the laptop does not: the refusals and retries for its workers.

The head launches them, so its state and its event log have it all. `raylambda status` asks the
heads that it finds for it, over ssh.
"""

import subprocess
from collections.abc import Sequence

from autoscaler.errors import UnavailableError
from autoscaler.lambda_cloud.credentials import home_dir

SSH_USER = "ubuntu"
"""The user of Lambda's images."""
CONNECT_TIMEOUT_S = 5
TIMEOUT_S = 30
_OPTIONS = (
    *("-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_TIMEOUT_S}"),
    # As Ray does: a new machine's key is known to nobody, and addresses come again.
    *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
    *("-o", "LogLevel=ERROR"),
)


def ask_head(ip: str, words: Sequence[str]) -> str:
    """The output of `raylambda status --local` and more words on a head.

    With the key that `ray up` made for this machine's clusters, and with the user's own.
    Raises UnavailableError, whose message says how to see it otherwise.
    """
    own_key = home_dir() / "id_ed25519"
    identity = ("-i", str(own_key)) if own_key.exists() else ()
    command = " ".join(("python -m autoscaler.cli status --local", *words))
    try:
        done = subprocess.run(
            ["ssh", *identity, *_OPTIONS, f"{SSH_USER}@{ip}", command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _unavailable(type(error).__name__) from None
    if done.returncode != 0:
        raise _unavailable(_printable(done.stderr).strip().rpartition("\n")[2])
    return _printable(done.stdout)


def _unavailable(why: str) -> UnavailableError:
    return UnavailableError(
        f"not asked ({why or 'ssh failed'}): ray exec CLUSTER.yaml "
        "'python -m autoscaler.cli status' shows what it knows"
    )


def _printable(output: bytes) -> str:
    """Another machine's words do not steer this terminal."""
    text = output.decode(errors="replace")
    return "".join(char for char in text if char.isprintable() or char == "\n")
