"""The question to a cluster's head, over ssh: `raylambda status --local`.

The head launches the workers, so its state and its event log have their refusals and retries,
of which the laptop knows nothing.
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
    """The output of `raylambda status --local` with more `words` on a head.

    Logs in with the key that `ray up` made for this machine's clusters, or the user's own.
    Raises UnavailableError, whose message names another command that shows it.
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
