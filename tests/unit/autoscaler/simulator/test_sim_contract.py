"""The simulated API is the documented one: paths, requests, responses."""

import json
import string
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.simulator.api.endpoints import routes
from autoscaler.simulator.api.validation import SCHEMAS, parse_body
from autoscaler.simulator.cloud.errors import ApiError
from autoscaler.simulator.cloud.faults import ENDPOINTS
from tests.unit.autoscaler.simulator.lambda_contract import Contract

PATHS = {
    "launch": ("POST", "/api/v1/instance-operations/launch"),
    "terminate": ("POST", "/api/v1/instance-operations/terminate"),
    "restart": ("POST", "/api/v1/instance-operations/restart"),
    "rename": ("POST", "/api/v1/instances/{id}"),
    "add_ssh_key": ("POST", "/api/v1/ssh-keys"),
    "create_file_system": ("POST", "/api/v1/filesystems"),
    "create_firewall_ruleset": ("POST", "/api/v1/firewall-rulesets"),
}

texts = st.one_of(
    st.text(max_size=5),
    st.text(string.ascii_lowercase + string.digits + "-:/", max_size=130),
    st.sampled_from(["", "/home/x", "/data", "/etc", "a" * 64, "a" * 65, "a1-", "1a", "-a"]),
)
scalars = st.one_of(texts, st.integers(-2, 70000), st.booleans(), st.none())
tags = st.fixed_dictionaries({"key": texts, "value": texts})
mounts = st.fixed_dictionaries({"mount_point": texts, "file_system_id": texts})
values = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.lists(tags | mounts, max_size=2),
    st.fixed_dictionaries({}, optional={"id": scalars, "family": scalars}),
)
rules = st.fixed_dictionaries(
    {
        "protocol": st.sampled_from(["tcp", "icmp", "sctp"]),
        "source_network": texts,
        "description": texts,
    },
    optional={"port_range": st.lists(st.integers(0, 65536), max_size=3)},
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, Any]:
    """An endpoint and a body that is nearly right for it."""
    endpoint = draw(st.sampled_from(sorted(SCHEMAS)))
    right: dict[str, Any] = {
        "region_name": "us-west-1",
        "instance_type_name": "gpu_1x_a10",
        "ssh_key_names": ["k"],
        "instance_ids": ["i"],
        "name": "a-name",
        "region": "us-west-1",
        "rules": [],
        "tags": [],
    }
    known = [name for name in SCHEMAS[endpoint]["properties"] if name != "quantity"]
    body = {name: right[name] for name in known if name in right}
    for name in draw(st.lists(st.sampled_from(known), max_size=2)):
        body[name] = draw(st.lists(rules, max_size=2) if name == "rules" else values)
    for name in draw(st.lists(st.sampled_from(known), max_size=1)):
        body.pop(name, None)
    return endpoint, body


def test_every_path_is_a_documented_one(contract: Contract) -> None:
    missing = {(m, f"/api/v1{p}") for m, p, _ in routes()} - contract.operations()
    assert not missing


def test_faults_can_name_every_endpoint() -> None:
    assert set(ENDPOINTS) == {name for _, _, name in routes()}


def test_every_path_with_a_request_body_has_its_schema(contract: Contract) -> None:
    paths = contract.document["paths"]
    with_body = {n for m, p, n in routes() if "requestBody" in paths[f"/api/v1{p}"][m.lower()]}
    assert with_body == set(SCHEMAS) == set(PATHS)


@settings(max_examples=150, deadline=None)
@given(case=bodies())
def test_requests_are_refused_exactly_as_the_document_has_it(
    contract: Contract, case: tuple[str, Any]
) -> None:
    endpoint, body = case
    allowed = contract.request_fits(*PATHS[endpoint], body)
    keys = body.get("ssh_key_names")
    if endpoint == "launch" and allowed and len(keys) != 1:
        allowed = False  # said in words only: "exactly one SSH key must be specified"
    try:
        parse_body(endpoint, json.dumps(body).encode(), reject_unknown_fields=False)
    except ApiError as error:
        assert (error.status, error.code) == (400, "global/invalid-parameters")
        assert not allowed, error.message
    else:
        assert allowed


def test_the_fields_known_are_the_documented_ones(contract: Contract) -> None:
    for endpoint, (method, path) in PATHS.items():
        operation = contract.document["paths"][path][method.lower()]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        own = set(SCHEMAS[endpoint]["properties"]) - {"quantity"}
        assert own == set(schema["properties"]), endpoint


def test_a_wrong_response_is_noticed(contract: Contract) -> None:
    good = [{"name": "us-west-1", "description": "California, USA"}]
    contract.check_response("GET", "/api/v1/regions", 200, {"data": good})
    for bad in ([{"name": "us-west-1"}], [{**good[0], "price": 1}], [{**good[0], "name": 5}]):
        try:
            contract.check_response("GET", "/api/v1/regions", 200, {"data": bad})
        except AssertionError:
            continue
        raise AssertionError(f"passed: {bad}")
