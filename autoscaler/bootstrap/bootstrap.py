"""Bootstrap: the configurations that `ray up` derives from the YAML, in the order Ray asks.

    fill_resources      each node type gets the resources that its machines have
    bootstrap           the laptop's: checked, with secrets as files to mount and an SSH key
    prepare_for_head    the head's: its region and SSH key are fixed, its workers get no API key

None of them sends a request (except for an instance type that the packaged price list lacks),
so the outcome is the same each time: Ray caches it, and `ray down` must work without the cache.
"""

from typing import Any

from autoscaler.bootstrap.config import (
    FORMER_CHARGES,
    HEAD_TYPE,
    NODE_TYPES,
    ON_HEAD,
    PUBLIC_KEY,
    parse_cluster,
    parse_node_type,
)
from autoscaler.bootstrap.files import (
    REMOTE_API_KEY,
    REMOTE_API_URL,
    REMOTE_PYTHON_VERSION,
    REMOTE_RAY_TOKEN,
    ClusterFiles,
    cluster_files,
)
from autoscaler.bootstrap.preflight import candidates, resources_of
from autoscaler.bootstrap.ssh_keys import own_private_key, public_key_of
from autoscaler.domain import ApiKey
from autoscaler.errors import AutoscalerError, ConfigError
from autoscaler.lambda_cloud.catalog import Catalog, overlay
from autoscaler.lambda_cloud.credentials import api_url, load_api_key
from autoscaler.money.spend_sync import Row
from autoscaler.session import open_session

SSH_USER = "ubuntu"
"""The user of Lambda's images."""
TOKEN_MODE = "export RAY_AUTH_MODE=token; "
"""Before `ray start`: without it, a node whose token file is missing would run unauthenticated."""
START_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")
LISTS_RAY_EXPECTS = (
    "initialization_commands",
    *START_COMMANDS,
    "cluster_synced_files",
)
"""Ray has no defaults for them with an external provider."""


def fill_resources(config: dict[str, Any]) -> dict[str, Any]:
    """Gives node types without `resources` what all their candidates have.

    Never raises: Ray ignores errors here. `bootstrap` reports what is wrong with the YAML.
    """
    catalog: Catalog | None = None
    for name, section in config["available_node_types"].items():
        if "resources" in section:
            continue
        section["resources"] = {}
        try:
            node_type = parse_node_type(name, section)
            catalog = catalog or _catalog(node_type.config.instance_types)
            section["resources"] = resources_of(candidates(node_type, catalog))
        except AutoscalerError:
            continue
    return config


def bootstrap(config: dict[str, Any]) -> dict[str, Any]:
    """The laptop's configuration. Raises ConfigError, AuthError; writes the cluster's files."""
    provider = config["provider"]
    if provider.get(ON_HEAD):
        return config
    parse_cluster(config)
    files = write_files(config["cluster_name"], load_api_key(), api_url())
    config["file_mounts"] = (config.get("file_mounts") or {}) | {
        REMOTE_API_KEY: str(files.api_key),
        REMOTE_API_URL: str(files.api_url),
        REMOTE_RAY_TOKEN: str(files.ray_token),
        REMOTE_PYTHON_VERSION: str(files.python_version),
    }
    for name in LISTS_RAY_EXPECTS:
        config[name] = list(config.get(name) or [])
    for name in START_COMMANDS:
        config[name] = [_with_token(command) for command in config[name]]
    _bootstrap_auth(config.setdefault("auth", {}), provider)
    provider[HEAD_TYPE] = config["head_node_type"]
    provider[NODE_TYPES] = {
        name: {"node_config": section["node_config"], "resources": section.get("resources", {})}
        for name, section in config["available_node_types"].items()
    }
    return config


def write_files(cluster: str, key: ApiKey, url: str) -> ClusterFiles:
    """The files that the configuration names; the token is created once, the others each time."""
    files = cluster_files(cluster)
    files.write_credentials(key, url)
    files.write_python_version()
    files.ensure_ray_token()
    return files


def prepare_for_head(
    config: dict[str, Any], region: str, ssh_key_name: str, former_charges: list[Row]
) -> dict[str, Any]:
    """The head's configuration: its region is fixed, and its workers get no API key.

    `former_charges` are the run's charges before this head, which count against its budget.
    """
    provider = config["provider"]
    provider["regions"] = [region]
    provider["ssh_key_name"] = ssh_key_name
    provider[ON_HEAD] = True
    provider[FORMER_CHARGES] = former_charges
    provider.pop(PUBLIC_KEY, None)
    # A path on the laptop.
    provider.pop("_config_cache_path", None)
    for path in (REMOTE_API_KEY, REMOTE_API_URL):
        config["file_mounts"].pop(path, None)
    # Ray has merged them into head_setup_commands and worker_setup_commands, and would merge
    # them again on the head: every worker would run them twice.
    config["setup_commands"] = []
    return config


def _bootstrap_auth(auth: dict[str, Any], provider: dict[str, Any]) -> None:
    auth.setdefault("ssh_user", SSH_USER)
    if "ssh_private_key" not in auth:
        if provider.get("ssh_key_name"):
            raise ConfigError(
                "auth.ssh_private_key: name the private key's file that goes with "
                f"provider.ssh_key_name ({provider['ssh_key_name']!r})"
            )
        auth["ssh_private_key"] = str(own_private_key())
    # Ray would open this file on the head as well, where it does not exist.
    auth.pop("ssh_public_key", None)
    provider[PUBLIC_KEY] = public_key_of(auth["ssh_private_key"])


def _with_token(command: str) -> str:
    if "ray start" not in command or "RAY_AUTH_MODE" in command:
        return command
    return TOKEN_MODE + command


def _catalog(names: tuple[str, ...]) -> Catalog:
    packaged = overlay(None)
    if all(packaged.get(name) for name in names):
        return packaged
    return open_session().catalog.current()
