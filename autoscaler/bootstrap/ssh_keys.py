"""The SSH key pair of this machine's clusters, and its public half in the account."""

import hashlib
import subprocess
from pathlib import Path

from autoscaler.errors import AutoscalerError, ConfigError, UnavailableError
from autoscaler.lambda_cloud.client import LambdaClient
from autoscaler.lambda_cloud.credentials import home_dir

KEYGEN_TIMEOUT_S = 30.0


def own_private_key() -> Path:
    """`~/.raylambda/id_ed25519`, made at the first use."""
    path = home_dir() / "id_ed25519"
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _keygen("-q", "-t", "ed25519", "-N", "", "-C", "raylambda", "-f", str(path))
    return path


def public_key_of(private_key: str | Path) -> str:
    """`type base64` of a private key file, without the comment. Raises ConfigError."""
    private_key = Path(private_key).expanduser()
    if not private_key.is_file():
        raise ConfigError(f"auth.ssh_private_key: there is no file {private_key}")
    return _without_comment(_keygen("-y", "-P", "", "-f", str(private_key)))


def key_name(public_key: str) -> str:
    """The name under which we register a key; it follows from the key alone."""
    return f"raylambda-{hashlib.sha256(public_key.encode()).hexdigest()[:12]}"


def ensure_registered(client: LambdaClient, public_key: str) -> str:
    """The account's name for the key; registers it if the account does not have it."""
    if name := _find(client, public_key):
        return name
    try:
        return client.add_ssh_key(key_name(public_key), public_key).name
    except (UnavailableError, ConfigError):
        # Perhaps it was added all the same, or by another process a moment before.
        if name := _find(client, public_key):
            return name
        raise


def check_registered(client: LambdaClient, name: str, public_key: str | None) -> None:
    """Raises ConfigError unless the account has the named key, and it is this one."""
    found = next((key for key in client.list_ssh_keys() if key.name == name), None)
    if found is None:
        raise ConfigError(f"provider.ssh_key_name: the account has no SSH key named {name!r}")
    if public_key is not None and _without_comment(found.public_key) != public_key:
        raise ConfigError(
            f"provider.ssh_key_name: {name!r} is not the public half of auth.ssh_private_key"
        )


def _find(client: LambdaClient, public_key: str) -> str | None:
    keys = client.list_ssh_keys()
    return next((k.name for k in keys if _without_comment(k.public_key) == public_key), None)


def _without_comment(public_key: str) -> str:
    return " ".join(public_key.split()[:2])


def _keygen(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["ssh-keygen", *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=KEYGEN_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise ConfigError("ssh-keygen is not installed: install OpenSSH's client") from None
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"auth.ssh_private_key: {' '.join(error.stderr.split())}") from None
    except subprocess.TimeoutExpired:
        raise AutoscalerError("ssh-keygen did not answer") from None
    return done.stdout
