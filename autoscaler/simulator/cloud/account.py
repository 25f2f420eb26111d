"""What an account owns besides instances: SSH keys, file systems, firewall rulesets."""

import hashlib
import ipaddress
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autoscaler.simulator.cloud import errors
from autoscaler.simulator.cloud.config import CloudConfig
from autoscaler.simulator.cloud.offers import REGIONS, region_json


@dataclass(frozen=True)
class SSHKey:
    """A stored public key."""

    id: str
    name: str
    public_key: str

    def to_json(self) -> dict[str, Any]:
        """The API's `SSHKey` object."""
        return {"id": self.id, "name": self.name, "public_key": self.public_key}


@dataclass(frozen=True)
class FileSystem:
    """A persistent file system, bound to its region."""

    id: str
    name: str
    region: str
    created_at: float

    def to_json(self, in_use: bool) -> dict[str, Any]:
        """The API's `Filesystem` object."""
        return {
            "id": self.id,
            "name": self.name,
            "mount_point": f"/lambda/nfs/{self.name}",
            "created": datetime.fromtimestamp(self.created_at, UTC).isoformat(),
            "created_by": {"id": "0" * 32, "email": "owner@example.com", "status": "active"},
            "is_in_use": in_use,
            "region": region_json(self.region),
            "bytes_used": 0,
        }


@dataclass(frozen=True)
class FirewallRuleset:
    """Inbound rules of one region, each as the API has it."""

    id: str
    name: str
    region: str
    rules: tuple[dict[str, Any], ...]
    created_at: float

    def to_json(self, instance_ids: list[str]) -> dict[str, Any]:
        """The API's `FirewallRuleset` object."""
        return {
            "id": self.id,
            "name": self.name,
            "region": region_json(self.region),
            "rules": list(self.rules),
            "created": datetime.fromtimestamp(self.created_at, UTC).isoformat(),
            "instance_ids": instance_ids,
        }


class Account:
    """SSH keys and file systems by name, rulesets by id. Callers hold the cloud's lock.

    What the API would refuse raises ApiError.
    """

    def __init__(self, config: CloudConfig) -> None:
        self._config = config
        self.ssh_keys: dict[str, SSHKey] = {}
        self.file_systems: dict[str, FileSystem] = {}
        self.firewall_rulesets: dict[str, FirewallRuleset] = {}
        self._made = 0

    def _new_id(self, what: str) -> str:
        self._made += 1
        text = f"{self._config.seed} {what} {self._made}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def add_ssh_key(self, name: str, public_key: str | None) -> dict[str, Any]:
        """Stores a public key; without one makes a pair, whose private key only this answer has.

        A duplicate name is `global/invalid-parameters`: the API's document has no other code.
        """
        if name in self.ssh_keys:
            raise errors.invalid_parameters(f"SSH key {name} already exists.")
        private_key = None
        if public_key is None:
            private_key, public_key = _new_key_pair()
        key = SSHKey(self._new_id("ssh key"), name, public_key)
        self.ssh_keys[name] = key
        body = key.to_json()
        return body if private_key is None else {**body, "private_key": private_key}

    def delete_ssh_key(self, key_id: str) -> None:
        """Deletes a key; machines that have it keep it."""
        for name, key in self.ssh_keys.items():
            if key.id == key_id:
                del self.ssh_keys[name]
                return
        raise errors.not_found()

    def create_file_system(self, name: str, region: str, now: float) -> FileSystem:
        """Makes an empty file system."""
        if region not in REGIONS:
            raise errors.invalid_parameters(f"Region {region} does not exist.")
        if name in self.file_systems:
            raise errors.duplicate(f"Filesystem {name}")
        if len(self.file_systems) >= self._config.max_file_systems:
            raise errors.quota_exceeded("file systems")
        made = FileSystem(self._new_id("file system"), name, region, now)
        self.file_systems[name] = made
        return made

    def create_firewall_ruleset(self, body: dict[str, Any], now: float) -> FirewallRuleset:
        """Makes a ruleset of a body that fits its schema; names may repeat."""
        if body["region"] not in REGIONS:
            raise errors.invalid_parameters(f"Region {body['region']} does not exist.")
        for rule in body["rules"]:
            _check_rule(rule)
        made = FirewallRuleset(
            self._new_id("firewall ruleset"),
            body["name"],
            body["region"],
            tuple(body["rules"]),
            now,
        )
        self.firewall_rulesets[made.id] = made
        return made

    def file_system_by_id(self, fs_id: str) -> FileSystem | None:
        """The file system of this id, if any."""
        return next((f for f in self.file_systems.values() if f.id == fs_id), None)


def _check_rule(rule: dict[str, Any]) -> None:
    """ApiError 400 for what the schema of a rule cannot say: ports, and an IPv4 network."""
    has_ports = "port_range" in rule
    if has_ports == (rule["protocol"] == "icmp"):
        raise errors.invalid_parameters("port_range: required, except that icmp must not have it")
    if has_ports and rule["port_range"][0] > rule["port_range"][1]:
        raise errors.invalid_parameters("port_range: must be [min, max]")
    try:
        ipaddress.IPv4Network(rule["source_network"])
    except ValueError:
        raise errors.invalid_parameters("source_network: not an IPv4 network") from None


def _new_key_pair() -> tuple[str, str]:
    """(private key, public key), made by OpenSSH."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "key")
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "noname", "-f", str(path)]
        subprocess.run(command, check=True, timeout=30)
        return path.read_text(), path.with_suffix(".pub").read_text().strip()
