"""Ray's side of the provider's tests: a YAML, and a laptop and a head over one simulation."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoscaler.bootstrap.config import HEAD_TYPE, NODE_TYPES, ON_HEAD, PUBLIC_KEY
from autoscaler.domain import ApiKey
from autoscaler.lambda_cloud.rate_limit import Turn
from autoscaler.provider import LambdaNodeProvider
from autoscaler.session import Session
from autoscaler.simulator import CloudConfig, InProcessAdapter, Simulation

URL = "https://lambda.test/api/v1"
REGION = "us-west-1"
PUBLIC = "ssh-ed25519 AAAA"
H100, A100, A10, CPU = "gpu_1x_h100_sxm5", "gpu_1x_a100", "gpu_1x_a10", "cpu_4x_general"

CLUSTER: dict[str, Any] = {
    "cluster_name": "demo",
    "provider": {
        "type": "external",
        "module": "autoscaler.provider.LambdaNodeProvider",
        "regions": [REGION, "us-east-1"],
    },
    "auth": {"ssh_user": "ubuntu"},
    "max_workers": 10,
    "upscaling_speed": 100.0,
    "idle_timeout_minutes": 5,
    "available_node_types": {
        "head": {"node_config": {"instance_types": [CPU, A10]}, "resources": {"CPU": 4}},
        "gpu": {
            "node_config": {"instance_types": [H100, A100]},
            "resources": {"CPU": 26, "GPU": 1},
            "min_workers": 0,
            "max_workers": 8,
        },
    },
    "head_node_type": "head",
    "file_mounts": {},
    "cluster_synced_files": [],
    "initialization_commands": [],
    "setup_commands": ["echo setup"],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": ["ray stop", "ray start --head"],
    "worker_start_ray_commands": ["ray stop", "ray start --address=$RAY_HEAD_IP:6379"],
}


def cluster_yaml(**provider: Any) -> dict[str, Any]:
    config = copy.deepcopy(CLUSTER)
    config["provider"] |= provider
    return config


def session(
    simulation: Simulation,
    home: Path,
    *,
    sleep: Callable[[float], object] | None = None,
    key: str = "sim",
    turn: Turn | None = None,
) -> Session:
    return Session(
        ApiKey(key),
        URL,
        home,
        clock=simulation.clock.now,
        sleep=sleep or simulation.advance,
        turn=turn,
        adapter=InProcessAdapter(simulation),
        durable=False,
    )


def laptop_section(config: dict[str, Any]) -> dict[str, Any]:
    """The provider section as `ray up` bootstraps it."""
    types = config["available_node_types"]
    return config["provider"] | {
        HEAD_TYPE: config["head_node_type"],
        NODE_TYPES: {name: copy.deepcopy(section) for name, section in types.items()},
        PUBLIC_KEY: PUBLIC,
    }


def head_section(config: dict[str, Any], region: str = REGION) -> dict[str, Any]:
    """The provider section as the head gets it."""
    section = laptop_section(config) | {"regions": [region], ON_HEAD: True}
    return section | {"ssh_key_name": "sim-key"}


def head_of(laptop: LambdaNodeProvider, opened: Session) -> LambdaNodeProvider:
    """The head's own provider, after `ray up` has prepared its configuration."""
    config = copy.deepcopy(CLUSTER) | {"provider": copy.deepcopy(laptop.provider_config)}
    return provider_on(laptop.prepare_for_head_node(config)["provider"], opened)


def provider_on(section: dict[str, Any], opened: Session, name: str = "demo") -> LambdaNodeProvider:
    return LambdaNodeProvider(section, name, opened)


def ray_tags(kind: str = "worker", node_type: str | None = None, **more: str) -> dict[str, str]:
    return {
        "ray-node-type": kind,
        "ray-user-node-type": node_type or ("head" if kind == "head" else "gpu"),
        "ray-node-name": f"ray-demo-{kind}",
        "ray-launch-config": "0" * 52,
        "ray-node-status": "uninitialized",
        **more,
    }


def node_config(name: str = "gpu") -> dict[str, Any]:
    return copy.deepcopy(CLUSTER["available_node_types"][name]["node_config"])


def make(provider: LambdaNodeProvider, count: int = 1, name: str = "gpu") -> list[str]:
    """Nodes of a type, as Ray asks for them; their ids."""
    kind = "head" if name == "head" else "worker"
    return list(provider.create_node(node_config(name), ray_tags(kind, name), count))


def told(provider: LambdaNodeProvider, event: str) -> list[dict[str, Any]]:
    """What the provider has written of an event."""
    return events(provider.cluster.session, event)


def events(opened: Session, name: str) -> list[dict[str, Any]]:
    return [record for record in opened.events.tail(10_000) if record["event"] == name]


def account(**config: Any) -> Simulation:
    """An account with one SSH key. Its rates are enforced and counted."""
    made = Simulation(CloudConfig(**config))
    made.cloud.account.add_ssh_key("sim-key", f"{PUBLIC} test")
    return made
