"""The cloud that the demo starts: its key is its own, whatever the user has exported."""

from pathlib import Path

import pytest
import requests

from ray_jobs.demo.simulated_cluster import SimulatedCluster, simulated_cloud
from tests.cloud.machines import require_machines

pytestmark = pytest.mark.cloud


def test_its_key_is_random_and_neither_the_users_nor_a_fixed_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_machines("root")
    monkeypatch.setenv("LAMBDA_API_KEY", "the-users-own")

    def status(api: str, key: str) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        return requests.get(f"{api}/instances", headers=headers, timeout=10).status_code

    keys = set()
    for number in range(2):
        with simulated_cloud(tmp_path / str(number)) as cloud:
            keys.add(cloud.key)
            codes = {key: status(cloud.api, key) for key in (cloud.key, "the-users-own", "sim")}
            assert codes == {cloud.key: 200, "the-users-own": 401, "sim": 401}
            cluster = SimulatedCluster(cloud, tmp_path, tmp_path / "log")
            assert cluster.environment["LAMBDA_API_KEY"] == cloud.key
    assert len(keys) == 2
