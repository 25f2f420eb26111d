"""What `ray up` makes of the YAML: paths and no secrets, the same each time."""

import copy
import errno
import json
import stat
import subprocess
import sys

import pytest
from ray.autoscaler._private.util import hash_launch_conf, prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

from autoscaler.bootstrap import bootstrap, ssh_keys
from autoscaler.bootstrap.files import cluster_files, write_secret
from autoscaler.bootstrap.preflight import candidates
from autoscaler.errors import ConfigError
from autoscaler.simulator import CloudConfig, SimulatedCloud
from tests import provider_rig as rig

KEY = "secret_key_0123456789"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LAMBDA_API_KEY", KEY)
    monkeypatch.delenv("LAMBDA_API_URL", raising=False)
    return tmp_path


def up(config=None):
    """As Ray does it, without its cache."""
    prepared = prepare_config(copy.deepcopy(config or rig.CLUSTER))
    filled = bootstrap.fill_resources(prepared)
    validate_config(filled)
    return bootstrap.bootstrap(filled)


def for_head(config):
    """As Ray rewrites it before it asks the provider."""
    remote = copy.deepcopy(config)
    remote["auth"]["ssh_private_key"] = "~/ray_bootstrap_key.pem"
    remote["file_mounts"] = {path: path for path in config["file_mounts"]}
    return bootstrap.prepare_for_head(remote, "us-west-1", "mine", [])


def test_secrets_are_files_and_the_configuration_holds_paths(home):
    config = up()
    token = cluster_files("demo").ray_token.read_text()
    private = (home / ".raylambda/id_ed25519").read_text()
    for shown in (json.dumps(config), json.dumps(for_head(config))):
        assert KEY not in shown and token not in shown and private not in shown
    for path in config["file_mounts"].values():
        assert stat.S_IMODE((home / path).stat().st_mode) == 0o600
    assert cluster_files("demo").api_key.read_text() == KEY
    assert len(token) == 64


def test_the_outcome_is_the_same_each_time_and_on_the_head():
    first = up()
    assert up() == first
    head = for_head(first)
    assert bootstrap.bootstrap(copy.deepcopy(head)) == head


def test_workers_get_the_token_and_no_key():
    config = up()
    assert set(config["file_mounts"]) == {
        "~/.raylambda/api_key",
        "~/.raylambda/api_url",
        "~/.ray/auth_token",
        "~/.raylambda/python_version",
    }
    head = for_head(config)
    assert set(head["file_mounts"]) == {"~/.ray/auth_token", "~/.raylambda/python_version"}
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        plain, start = head[name]
        assert plain == "ray stop" and start.startswith("export RAY_AUTH_MODE=token; ray start")


def test_nodes_get_the_python_of_the_laptop():
    mounted = up()["file_mounts"]["~/.raylambda/python_version"]
    with open(mounted) as file:
        assert file.read() == f"{sys.version_info.major}.{sys.version_info.minor}"


def test_setup_commands_run_once_on_a_worker():
    head = for_head(up())
    on_head = AutoscalingConfig(copy.deepcopy(head), skip_content_hash=True)
    assert on_head.get_worker_setup_commands("gpu") == ["echo setup"]


def test_the_head_gets_its_region_and_the_name_of_the_key():
    provider = for_head(up())["provider"]
    assert provider["regions"] == ["us-west-1"] and provider["ssh_key_name"] == "mine"
    assert provider["_on_head"] is True and "_ssh_public_key" not in provider


def test_nothing_of_it_changes_the_launch_hash():
    """It decides whether Ray replaces the head."""
    config = up()
    hashes = {
        hash_launch_conf(c["available_node_types"]["head"]["node_config"], c["auth"])
        for c in (config, up(rig.cluster_yaml(max_total_cents=100)))
    }
    assert len(hashes) == 1


def test_resources_are_the_least_of_the_candidates():
    config = copy.deepcopy(rig.CLUSTER)
    for node_type in config["available_node_types"].values():
        node_type.pop("resources")
    types = up(config)["available_node_types"]
    assert types["gpu"]["resources"] == {
        "CPU": 26,
        "GPU": 1,
        "memory": int(200 * 1024**3 * 0.7),
    }
    assert types["head"]["resources"]["CPU"] == 4 and "GPU" not in types["head"]["resources"]
    one = copy.deepcopy(config)
    one["available_node_types"]["gpu"]["node_config"]["instance_types"] = [rig.H100]
    assert up(one)["available_node_types"]["gpu"]["resources"]["accelerator_type:H100"] == 1


def test_the_owners_own_token_becomes_the_clusters(home):
    write_secret(home / ".ray/auth_token", "mine")
    up()
    assert cluster_files("demo").ray_token.read_text() == "mine"


def test_a_first_token_becomes_the_owners_and_stays(home):
    up()
    own = home / ".ray/auth_token"
    assert own.read_text() == cluster_files("demo").ray_token.read_text()
    own.write_text("another")
    up()
    assert cluster_files("demo").ray_token.read_text() != "another"


@pytest.mark.parametrize("what", ["folder", "no text"])
def test_a_token_that_cannot_be_read_is_one_line(home, what):
    own = home / ".ray/auth_token"
    own.parent.mkdir()
    own.mkdir() if what == "folder" else own.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="Ray's token cannot be read") as caught:
        up()
    assert str(own) in str(caught.value) and not cluster_files("demo").ray_token.exists()


def test_a_folder_that_cannot_be_written_is_one_line(home):
    (home / ".raylambda").mkdir(exist_ok=True)
    (home / ".raylambda" / "clusters").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        up()


def test_what_is_written_already_needs_no_room_on_the_disk(home, monkeypatch):
    up()
    own_key = cluster_files("demo").api_key
    own_key.chmod(0o644)
    up()
    assert stat.S_IMODE(own_key.stat().st_mode) == 0o600

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    up()
    monkeypatch.setenv("LAMBDA_API_KEY", "another")
    with pytest.raises(ConfigError, match="api_key: cannot be written: .*No space left"):
        up()


def test_a_configuration_from_rays_cache_finds_its_files_again(home):
    """`ray down` has removed them, and the cache of another YAML still names them."""
    config = up()
    cluster_files("demo").remove()
    assert rig.LambdaNodeProvider(config["provider"], "demo").cluster.name == "demo"
    for path in config["file_mounts"].values():
        assert stat.S_IMODE((home / path).stat().st_mode) == 0o600


def test_ssh_public_key_is_dropped_and_the_user_filled_in():
    """The head would open the file of that name, where it is not."""
    config = copy.deepcopy(rig.CLUSTER)
    config["auth"] = {"ssh_public_key": "/nowhere/id.pub"}
    auth = up(config)["auth"]
    assert "ssh_public_key" not in auth and auth["ssh_user"] == "ubuntu"


def test_a_private_key_of_the_users_own(home):
    path = home / "mine"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", path], check=True, timeout=60)
    config = copy.deepcopy(rig.CLUSTER)
    config["auth"]["ssh_private_key"] = str(path)
    public = up(config)["provider"]["_ssh_public_key"]
    assert public == " ".join((home / "mine.pub").read_text().split()[:2])
    assert not (home / ".raylambda/id_ed25519").exists()


def test_a_private_key_behind_a_password_is_named(home):
    path = home / "mine"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "word", "-f", path], check=True, timeout=60
    )
    with pytest.raises(ConfigError, match="auth.ssh_private_key"):
        ssh_keys.public_key_of(path)


def test_a_type_that_the_packaged_list_lacks_is_asked_for(monkeypatch):
    """Nobody packaged it, and this account has none either: the mend comes from `check`."""
    config = copy.deepcopy(rig.CLUSTER)
    gpu = config["available_node_types"]["gpu"]
    gpu["node_config"]["instance_types"] = ["gpu_1x_h900"]
    del gpu["resources"]
    with SimulatedCloud(CloudConfig(api_keys=(KEY,))) as sim:
        monkeypatch.setenv("LAMBDA_API_URL", sim.api_url)
        filled = bootstrap.fill_resources(prepare_config(config))
        assert filled["available_node_types"]["gpu"]["resources"] == {}
        assert sim.invariants.report()["requests"] == 1


def test_every_packaged_type_has_resources():
    from autoscaler.bootstrap.config import NodeConfig, NodeType
    from autoscaler.bootstrap.preflight import resources_of
    from autoscaler.lambda_cloud.catalog import overlay

    catalog = overlay(None)
    for name in catalog.types:
        found = candidates(NodeType("n", NodeConfig((name,))), catalog)
        resources = resources_of(found)
        assert resources["CPU"] > 0 and resources["memory"] > 0
        assert resources.get("GPU", 0) == found[0].gpus
