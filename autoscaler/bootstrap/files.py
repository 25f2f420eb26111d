"""A cluster's files on the laptop: `~/.raylambda/clusters/<cluster>/`, all 0600.

Most are secrets. They travel to the head as file mounts, so that the YAML, its caches and its
logs hold paths only. The same bytes are written again on each `ray up`; `ray down` removes them.
"""

import os
import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from autoscaler.domain import ApiKey
from autoscaler.errors import ConfigError
from autoscaler.lambda_cloud.credentials import home_dir
from autoscaler.lambda_cloud.tags import slug

REMOTE_API_KEY = "~/.raylambda/api_key"
REMOTE_API_URL = "~/.raylambda/api_url"
REMOTE_RAY_TOKEN = "~/.ray/auth_token"
REMOTE_PYTHON_VERSION = "~/.raylambda/python_version"
"""Read by `cluster/setup_node.sh`."""
TOKEN_BYTES = 32


@dataclass(frozen=True)
class ClusterFiles:
    folder: Path

    @property
    def api_key(self) -> Path:
        return self.folder / "api_key"

    @property
    def api_url(self) -> Path:
        return self.folder / "api_url"

    @property
    def ray_token(self) -> Path:
        return self.folder / "auth_token"

    @property
    def python_version(self) -> Path:
        return self.folder / "python_version"

    def write_python_version(self) -> None:
        """Ray wants one minor version of Python in a cluster: that of this process."""
        write_secret(self.python_version, f"{sys.version_info.major}.{sys.version_info.minor}")

    def write_credentials(self, key: ApiKey, url: str) -> None:
        write_secret(self.api_key, key.reveal())
        write_secret(self.api_url, url)

    def ensure_ray_token(self) -> None:
        """One token for a cluster's life: who has it may run code on the cluster.

        `ray job submit` and `ray dashboard` read the owner's `~/.ray/auth_token`, so that one
        is the cluster's where it exists, and becomes it where it does not. Raises ConfigError.
        """
        if self.ray_token.exists():
            return
        own = Path.home() / ".ray" / "auth_token"
        try:
            token = own.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            token = ""
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{own}: Ray's token cannot be read: {error}") from None
        if not token:
            token = secrets.token_hex(TOKEN_BYTES)
            write_secret(own, token)
        write_secret(self.ray_token, token)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def cluster_files(cluster: str) -> ClusterFiles:
    return ClusterFiles(home_dir() / "clusters" / slug(cluster))


def write_secret(path: Path, text: str) -> None:
    """Atomically, and never readable by others, not even for a moment. Raises ConfigError
    where it cannot be written. What stands there already is not written again: `ray down` needs
    no room on the disk."""
    try:
        if path.read_text(encoding="utf-8") == text and not path.stat().st_mode & 0o077:
            return
    except (OSError, UnicodeDecodeError):
        pass
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(path, text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error}") from None


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
