"""Credentials: where the API key, the API's address and our own folder are."""

import ipaddress
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from autoscaler.domain import ApiKey
from autoscaler.errors import AuthError, ConfigError

DEFAULT_API_URL = "https://cloud.lambda.ai/api/v1"


def home_dir() -> Path:
    """~/.raylambda, where the state, the events and the key file live."""
    return Path.home() / ".raylambda"


def head_config() -> Path:
    """Where Ray writes the cluster's configuration on a head, and on no other machine."""
    return Path.home() / "ray_bootstrap_config.yaml"


def on_head() -> bool:
    """Whether this machine is a cluster's head."""
    return head_config().exists()


def own_cluster() -> str:
    """The name of the cluster whose head this machine is. Raises ConfigError if it is none."""
    try:
        # Ray writes it as JSON, whatever its name says.
        return str(json.loads(head_config().read_text(encoding="utf-8"))["cluster_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{head_config()}: not a head's configuration: {error}") from None


def load_api_key(env: Mapping[str, str] = os.environ, key_file: Path | None = None) -> ApiKey:
    """LAMBDA_API_KEY, else the key file (~/.raylambda/api_key, which must be 0600).

    Raises AuthError with the fix when there is none, or when others can read the file.
    """
    if value := env.get("LAMBDA_API_KEY", "").strip():
        return ApiKey(value)
    path = key_file or home_dir() / "api_key"
    try:
        with path.open() as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o177:
                raise AuthError(
                    f"{path} has mode {mode:04o}, so others may read the API key: chmod 600 {path}"
                )
            return ApiKey(file.read().strip())
    except FileNotFoundError:
        raise AuthError(
            f"no API key: set LAMBDA_API_KEY, or put the key in {path} with mode 0600"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise AuthError(f"the API key file {path} cannot be read: {error}") from None


def api_url(env: Mapping[str, str] = os.environ, url_file: Path | None = None) -> str:
    """LAMBDA_API_URL, else the file ~/.raylambda/api_url, else Lambda's own; no trailing slash.

    The file is how a head learns of an address that is not Lambda's. Raises ConfigError unless
    it is https, or http on this machine or a private address: the key never crosses the open
    internet in clear text.
    """
    url = env.get("LAMBDA_API_URL", "").strip() or _read(url_file or home_dir() / "api_url")
    url = url or DEFAULT_API_URL
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ConfigError("LAMBDA_API_URL: must not hold a user name or password")
    if not parts.hostname or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise ConfigError(f"LAMBDA_API_URL: {url!r} is not an http(s) address")
    if parts.scheme == "http" and not _is_private(parts.hostname):
        raise ConfigError(f"LAMBDA_API_URL: {url!r} would send the API key unencrypted: use https")
    return url.rstrip("/")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def _is_private(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return False
