"""`cluster/lambda.yaml`: complete for Ray, right for the provider, and made of what exists."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from autoscaler.bootstrap.config import parse_cluster, parse_node_type
from autoscaler.bootstrap.preflight import candidates
from autoscaler.lambda_cloud.catalog import overlay
from autoscaler.provider import LambdaNodeProvider
from autoscaler.simulator.cloud.offers import REGIONS

REPOSITORY = Path(__file__).resolve().parents[3]
FILE = REPOSITORY / "cluster" / "lambda.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    filled = LambdaNodeProvider.fillout_available_node_types_resources(cluster)
    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(filled, json.loads(schema.read_text()))
    # Ray gives an external provider no defaults.
    for name in (
        *("setup_commands", "head_setup_commands", "worker_setup_commands"),
        *("initialization_commands", "cluster_synced_files", "file_mounts"),
        *("head_start_ray_commands", "worker_start_ray_commands"),
    ):
        assert name in cluster


def test_the_provider_accepts_it(cluster: dict[str, Any]) -> None:
    provider = parse_cluster(cluster)
    assert set(provider.regions) <= set(REGIONS)
    assert provider.caps.max_price_cents_per_hour and provider.caps.max_total_cents
    for name, section in cluster["available_node_types"].items():
        node_type = parse_node_type(name, section)
        assert len(candidates(node_type, overlay(None))) > 1, f"{name}: nothing to fall back to"


def test_the_budget_holds_the_most_expensive_worker_and_the_head(cluster: dict[str, Any]) -> None:
    prices = [
        candidate.price_cents_per_hour or 0
        for name, section in cluster["available_node_types"].items()
        for candidate in candidates(parse_node_type(name, section), overlay(None))
    ]
    provider = cluster["provider"]
    assert max(prices) + min(prices) <= provider["max_price_cents_per_hour"]
    assert provider["max_price_cents_per_hour"] <= provider["max_total_cents"]


def test_workers_start_from_none_and_the_head_is_no_worker(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert types.pop(cluster["head_node_type"])["max_workers"] == 0
    assert {"a10", "a100", "h100", "h100x8"} == set(types)
    assert all(t["min_workers"] == 0 and t["max_workers"] > 0 for t in types.values())


def test_gpus_are_what_the_names_say(cluster: dict[str, Any]) -> None:
    filled = LambdaNodeProvider.fillout_available_node_types_resources(cluster)
    gpus = {n: t["resources"].get("GPU", 0) for n, t in filled["available_node_types"].items()}
    assert gpus == {"head": 0, "a10": 1, "a100": 1, "h100": 1, "h100x8": 8}


def test_what_is_mounted_exists_and_the_nodes_find_it(cluster: dict[str, Any]) -> None:
    for remote, local in cluster["file_mounts"].items():
        assert (REPOSITORY / local).exists()
        assert remote == f"~/raylambda/{local}"
    (setup,) = cluster["setup_commands"]
    script = setup.removeprefix("bash ")
    assert script.startswith("~/raylambda/")
    assert (REPOSITORY / script.removeprefix("~/raylambda/")).is_file()


def test_nothing_listens_for_strangers(cluster: dict[str, Any]) -> None:
    (start,) = [c for c in cluster["head_start_ray_commands"] if "ray start" in c]
    assert "--dashboard-host=127.0.0.1" in start
    assert "KEY" not in FILE.read_text().replace("LAMBDA_API_KEY set", "")
