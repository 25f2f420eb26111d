"""A client of the simulated cloud that holds every exchange against Lambda's document."""

from collections.abc import Callable
from typing import Any

import pytest
import requests

from autoscaler.simulator import CloudConfig, InProcessAdapter, Simulation
from tests.unit.autoscaler.simulator.lambda_contract import WHERE, Contract, find_document

UNDOCUMENTED = (429, 500, 502, 503, 504)
"""Statuses that gateways send and the document does not have."""


class Client:
    """Calls a simulation in this process, by default with the key `sim`.

    Each answer must be what the document has for it. Each request that is answered 200 must
    be one that the document allows.
    """

    def __init__(self, sim: Simulation, contract: Contract | None) -> None:
        self.sim = sim
        self._contract = contract
        self._session = requests.Session()
        self._session.mount("http://sim", InProcessAdapter(sim))

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str = "sim",
        params: dict[str, str] | None = None,
        documented: bool = True,
    ) -> requests.Response:
        response = self._session.request(
            method,
            f"http://sim/api/v1{path}",
            json=body,
            params=params,
            headers={"Authorization": f"Bearer {key}"},
            timeout=30,
        )
        if self._contract and documented and response.status_code not in UNDOCUMENTED:
            full = f"/api/v1{path}"
            status = response.status_code
            self._contract.check_response(method, full, status, response.json())
            if body is not None and status == 200:
                assert self._contract.request_fits(method, full, body), body
        return response

    def data(self, method: str, path: str, body: Any = None) -> Any:
        """The data of a call that must succeed."""
        response = self.call(method, path, body)
        assert response.status_code == 200, response.text
        return response.json()["data"]

    def error(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, str]:
        """(status, code) of a call that must fail."""
        response = self.call(method, path, body, **options)
        return response.status_code, response.json()["error"]["code"]

    def launch_body(self, **fields: Any) -> dict[str, Any]:
        """The body of a launch that succeeds, with fields put over it."""
        if "k" not in self.sim.cloud.account.ssh_keys:
            self.sim.cloud.account.add_ssh_key("k", "ssh-ed25519 AAAA k")
        return {
            "region_name": "us-west-1",
            "instance_type_name": "gpu_1x_a10",
            "ssh_key_names": ["k"],
            **fields,
        }

    def launch(self, **fields: Any) -> str:
        """Launches, and returns the id."""
        body = self.launch_body(**fields)
        return self.data("POST", "/instance-operations/launch", body)["instance_ids"][0]

    def refused(self, **fields: Any) -> tuple[int, str]:
        """(status, code) of a launch that must fail."""
        return self.error("POST", "/instance-operations/launch", self.launch_body(**fields))

    def terminate(self, *ids: str) -> list[dict[str, Any]]:
        body = {"instance_ids": list(ids)}
        return self.data("POST", "/instance-operations/terminate", body)["terminated_instances"]

    def get(self, instance_id: str) -> dict[str, Any]:
        return self.data("GET", f"/instances/{instance_id}")

    def listed(self) -> dict[str, str]:
        """Status by id, as the list has them."""
        return {i["id"]: i["status"] for i in self.data("GET", "/instances")}


@pytest.fixture(scope="session")
def document() -> Contract | None:
    """Lambda's document; None where it is not."""
    path = find_document()
    return Contract(path) if path else None


@pytest.fixture(scope="session")
def contract(document: Contract | None) -> Contract:
    """Lambda's document; skips where it is not."""
    if document is None:
        pytest.skip(f"Lambda's OpenAPI document is not here ({WHERE})")
    return document


@pytest.fixture
def cloud_client(document: Contract | None) -> Callable[..., Client]:
    """Makes a client of a new simulation without rate limits; fields go to its config.

    With `checked=False` the exchanges are not held against the document, which takes time.
    """

    def make(checked: bool = True, **config: Any) -> Client:
        fields = {"request_interval_s": 0, "launch_interval_s": 0, **config}
        return Client(Simulation(CloudConfig(**fields)), document if checked else None)

    return make
