"""The client against Lambda's own description of its API, where that lies at hand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from autoscaler.domain import Offering, Status, TypeOffer
from autoscaler.errors import ProtocolError, from_answer
from autoscaler.lambda_cloud.transport import Transport
from autoscaler.lambda_cloud.wire import read, read_instance
from tests.unit.autoscaler.lambda_rig import Scripted, instance_json, scripted, worker_spec

ROOT = Path(__file__).parents[4]
NAME = "lambda-openapi-1.10.0.json"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    path = Path(os.environ.get("RAYLAMBDA_OPENAPI", ROOT.parent / "shared" / "facts" / NAME))
    if not path.is_file():
        pytest.skip(f"Lambda's OpenAPI document is not at {path}; RAYLAMBDA_OPENAPI names it")
    return json.loads(path.read_text())


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document["components"]})


def operation(document: dict[str, Any], method: str, path: str) -> dict[str, Any]:
    """The documented operation that a request would reach."""
    for template, operations in document["paths"].items():
        pattern = re.sub(r"\{[^}]+\}", "[^/]+", template.removeprefix("/api/v1"))
        if re.fullmatch(pattern, path) and method.lower() in operations:
            return operations[method.lower()]
    raise AssertionError(f"{method} {path} is not documented")


LAUNCH = worker_spec().request(Offering("gpu_1x_a10", "us-west-1"), "0" * 16, 1.0)
FULL_LAUNCH = type(LAUNCH)(
    **{field: getattr(LAUNCH, field) for field in ("region", "instance_type", "ssh_key_name")},
    name=LAUNCH.name,
    tags=LAUNCH.tags,
    hostname=LAUNCH.name,
    image_family="lambda-stack-22-04",
    file_system_names=("fs",),
    firewall_ruleset_ids=("r1",),
    user_data="#cloud-config\n",
)

CALLS = {
    "list": lambda c: c.list_instances(),
    "get": lambda c: c.get_instance("i1"),
    "launch": lambda c: c.launch(LAUNCH),
    "launch with all": lambda c: c.launch(FULL_LAUNCH),
    "terminate": lambda c: c.terminate(["i1"]),
    "types": lambda c: c.list_instance_types(),
    "regions": lambda c: c.list_regions(),
    "images": lambda c: c.list_images(),
    "file systems": lambda c: c.list_file_systems(),
    "keys": lambda c: c.list_ssh_keys(),
    "add key": lambda c: c.add_ssh_key("n", "ssh-ed25519 AAAA n"),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_request_is_a_documented_one(document, call):
    # What comes back does not matter here: the request has gone out.
    wired = scripted(*[Scripted(200, {"data": None})] * 4)
    try:
        CALLS[call](wired.client)
    except ProtocolError:
        pass
    method, path = wired.adapter.calls[0].split(" ", 1)
    found = operation(document, method, path)
    body = wired.adapter.bodies()[0]
    assert (body is not None) == ("requestBody" in found)
    if body is not None:
        schema = found["requestBody"]["content"]["application/json"]["schema"]
        # The document does not forbid other fields, Lambda does.
        strict = {**schema, "additionalProperties": False}
        assert [error.message for error in validator(document, strict).iter_errors(body)] == []


def test_what_our_tests_call_an_instance_is_one(document):
    available = {"available": True}
    actions = dict.fromkeys(
        ("migrate", "rebuild", "restart", "cold_reboot", "terminate"), available
    )
    body = instance_json(actions=actions)
    schema = {"$ref": "#/components/schemas/Instance"}
    assert [error.message for error in validator(document, schema).iter_errors(body)] == []


def test_the_documents_own_examples_are_read(document):
    terminate = operation(document, "POST", "/instance-operations/terminate")
    schema = terminate["responses"]["200"]["content"]["application/json"]["schema"]
    (example,) = schema["properties"]["data"]["examples"]
    instance = read_instance(example["terminated_instances"][0], "example")
    assert instance.status is Status.TERMINATING
    assert instance.tags == {"key1": "value1", "key2": "value2"}
    assert example["terminated_instances"][0]["jupyter_token"] not in repr(instance)
    types = document["components"]["schemas"]["InstanceTypes"]["example"]
    offers = [read(TypeOffer, item, "example") for item in types.values()]
    assert offers[0].regions == ("us-west-1",)
    assert offers[0].instance_type.price_cents_per_hour == 1592


def test_every_documented_status_is_known(document):
    statuses = document["components"]["schemas"]["InstanceStatus"]["enum"]
    assert set(statuses) == {status.value for status in Status} - {"unknown"}


def test_every_documented_error_code_has_a_class_of_its_own(document):
    schemas = document["components"]["schemas"].items()
    codes = {
        schema["properties"]["code"]["const"]
        for name, schema in schemas
        if name.startswith("ApiError") and "const" in schema["properties"]["code"]
    }
    assert len(codes) > 10
    unmapped = {
        code for code in codes if isinstance(from_answer(418, code, "", "GET /x"), ProtocolError)
    }
    assert unmapped == set()


def test_the_base_address_is_the_documented_one(document):
    from autoscaler.lambda_cloud.credentials import DEFAULT_API_URL

    assert DEFAULT_API_URL == document["servers"][0]["url"].rstrip("/") + "/api/v1"


def test_the_lower_half_imports_neither_ray_nor_torch():
    names = sorted(p.stem for p in (ROOT / "autoscaler").glob("*.py"))
    upper = {"__init__", "provider", "runner", "cli"}
    imports = "; ".join(f"import autoscaler.{name}" for name in names if name not in upper)
    code = f"import sys; {imports}; print(sorted({{'ray', 'torch', 'aiohttp'}} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "[]\n", done.stderr


def test_nothing_but_the_transport_speaks_http():
    assert Transport.__module__ == "autoscaler.lambda_cloud.transport"
    users = [
        path.name
        for path in (ROOT / "autoscaler").rglob("*.py")
        if "simulator" not in path.parts
        and re.search(r"^(import|from) requests", path.read_text(), re.MULTILINE)
    ]
    assert users == ["transport.py"]
