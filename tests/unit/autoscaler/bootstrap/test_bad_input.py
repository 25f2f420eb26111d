"""`ray up` with what cannot be: one clear line, exit code 2 or 3, and nothing launched."""

import copy
import tempfile

import pytest
import yaml
from click.testing import CliRunner
from ray.autoscaler._private import providers
from ray.autoscaler._private.cli_logger import cli_logger
from ray.scripts.scripts import cli

from autoscaler import provider
from autoscaler.bootstrap import bootstrap
from autoscaler.simulator import RevokeKey, Stockout
from tests.provider_rig import CLUSTER, session
from tests.unit.autoscaler.lambda_rig import simulation

# Ray leaves the YAML's file open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def sim():
    sim = simulation()
    sim.cloud.account.create_file_system("datasets", "us-east-1", sim.clock.now())
    sim.cloud.account.create_file_system("far", "europe-central-1", sim.clock.now())
    return sim


@pytest.fixture
def ray_up(sim, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LAMBDA_API_KEY", "sim")
    monkeypatch.delenv("LAMBDA_API_URL", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(providers, "_provider_instances", {})
    monkeypatch.setattr(cli_logger, "pretty", False)

    def opened():
        return session(sim, tmp_path / ".raylambda")

    monkeypatch.setattr(provider, "open_session", opened)
    monkeypatch.setattr(bootstrap, "open_session", opened)

    def run(config):
        file = tmp_path / "cluster.yaml"
        file.write_text(yaml.safe_dump(config))
        return CliRunner().invoke(cli, ["up", "-y", "--no-config-cache", str(file)])

    return run


def refused(sim, result, *words, code=2):
    """One line that says what is wrong; exit code; no traceback; nothing launched."""
    assert result.exit_code == code, result.output
    assert result.exc_info is None or isinstance(result.exception, SystemExit)
    errors = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and "Traceback" not in result.output, result.output
    for word in words:
        assert word in errors[0]
    assert sim.invariants.report()["instances"] == 0


def changed(path, value):
    config = copy.deepcopy(CLUSTER)
    *parents, last = path.split("/")
    section = config
    for name in parents:
        section = section[name]
    section[last] = value
    return config


GPU = "available_node_types/gpu"
BAD = {
    "unknown provider field": ("provider/region", "us-west-1", ["provider.region", "regions"]),
    "no regions": ("provider/regions", [], ["provider.regions", "at least one"]),
    "regions as a word": ("provider/regions", "us-west-1", ["provider.regions", "list"]),
    "unknown region": ("provider/regions", ["mars-1"], ["provider.regions", "mars-1", "us-east-1"]),
    "money as text": ("provider/max_total_cents", "10$", ["provider.max_total_cents", "10$"]),
    "negative money": ("provider/max_price_cents_per_hour", -1, ["max_price_cents_per_hour"]),
    "unknown node field": (f"{GPU}/node_config/InstanceType", "x", ["gpu.node_config.Instance"]),
    "no instance types": (f"{GPU}/node_config", {}, ["gpu.node_config.instance_types"]),
    "unknown instance type": (
        f"{GPU}/node_config/instance_types",
        ["gpu_1x_h900"],
        ["gpu.node_config.instance_types", "gpu_1x_h900", "gpu_1x_a10"],
    ),
    "mixed architectures": (
        f"{GPU}/node_config/instance_types",
        ["gpu_1x_h100_sxm5", "gpu_1x_gh200"],
        ["gpu.node_config.instance_types", "gpu_1x_gh200 is arm64", "gpu_1x_h100_sxm5 is x86_64"],
    ),
    "too many GPUs": (f"{GPU}/resources", {"GPU": 2}, ["gpu.resources.GPU: 2", "h100_sxm5"]),
    "too many CPUs": (f"{GPU}/resources", {"CPU": 30}, ["gpu.resources.CPU: 30", "(26)"]),
    "regions that do not meet": (
        f"{GPU}/node_config/regions",
        ["asia-south-1"],
        ["gpu.node_config.regions", "us-west-1"],
    ),
    "unknown image": (f"{GPU}/node_config/image", "vms", ["gpu.node_config.image", "vms"]),
    "unknown file system": ("provider/filesystems", ["lost"], ["provider.filesystems", "lost"]),
    "file system elsewhere": (
        "provider/filesystems",
        ["far"],
        ["provider.filesystems", "'far' is in europe-central-1"],
    ),
    "unknown ssh key": ("provider/ssh_key_name", "mine", ["auth.ssh_private_key", "'mine'"]),
    "name too long": ("cluster_name", "x" * 200, ["cluster_name", "200"]),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_in_the_yaml_is_one_line(sim, ray_up, what):
    path, value, words = BAD[what]
    refused(sim, ray_up(changed(path, value)), *words)


def test_no_key(sim, ray_up, monkeypatch):
    monkeypatch.delenv("LAMBDA_API_KEY")
    refused(sim, ray_up(CLUSTER), "no API key", "LAMBDA_API_KEY")


@pytest.mark.parametrize("how", ["wrong", "revoked"])
def test_a_key_that_lambda_refuses(sim, ray_up, how, monkeypatch):
    if how == "revoked":
        sim.add_fault(RevokeKey())
    else:
        opened = provider.open_session
        monkeypatch.setattr(
            provider, "open_session", lambda: session(sim, opened().home, key="wrong")
        )
    refused(sim, ray_up(CLUSTER), "global/invalid-api-key")


def test_a_key_name_without_its_half_in_the_account(sim, ray_up, tmp_path):
    config = changed("provider/ssh_key_name", "mine")
    bootstrap.own_private_key()
    config["auth"]["ssh_private_key"] = str(tmp_path / ".raylambda/id_ed25519")
    refused(sim, ray_up(config), "provider.ssh_key_name", "'mine'")
    config["provider"]["ssh_key_name"] = "sim-key"
    refused(sim, ray_up(config), "provider.ssh_key_name", "not the public half")
    config["auth"]["ssh_private_key"] = "/nowhere"
    assert ray_up(config).exit_code != 0


def test_no_capacity_for_the_head(sim, ray_up):
    sim.add_fault(Stockout())
    refused(sim, ray_up(CLUSTER), "no capacity", "next try", code=3)


def test_a_head_that_may_not_be_paid(sim, ray_up):
    config = changed("provider/max_price_cents_per_hour", 10)
    refused(sim, ray_up(config), "max_price_cents_per_hour", code=3)
