"""Checks exchanges against Lambda's OpenAPI document, which lies outside of the repository."""

import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

WHERE = "RAYLAMBDA_OPENAPI, else ../shared/facts/lambda-openapi-1.10.0.json beside the repository"
_REPO = Path(__file__).resolve().parents[4]
_METHODS = ("get", "post", "put", "patch", "delete")


def find_document() -> Path | None:
    """The document's path, None where it is not."""
    given = os.environ.get("RAYLAMBDA_OPENAPI")
    path = Path(given) if given else _REPO.parent / "shared/facts/lambda-openapi-1.10.0.json"
    return path if path.is_file() else None


class Contract:
    """The document's operations with validators for their bodies.

    Objects are closed: a response with a field that the document does not know is wrong,
    though plain JSON Schema would let it pass.
    """

    def __init__(self, path: Path) -> None:
        self.document: dict[str, Any] = json.loads(path.read_text())
        self._closed = _closed(self.document)
        self._validators: dict[tuple[Any, ...], Draft202012Validator] = {}
        self._operations = {
            (method.upper(), template): operation
            for template, item in self.document["paths"].items()
            for method, operation in item.items()
            if method in _METHODS
        }

    def operations(self) -> set[tuple[str, str]]:
        """(method, path template) of every operation."""
        return set(self._operations)

    def _template(self, method: str, path: str) -> str:
        """The template of a path; paths without an id go before those with one."""
        for wanted, template in sorted(self._operations, key=lambda o: "{" in o[1]):
            pattern = re.sub(r"\{[^}]+\}", "[^/]+", template)
            if wanted == method and re.fullmatch(pattern, path):
                return template
        raise AssertionError(f"{method} {path} is not in the document")

    def request_fits(self, method: str, path: str, body: Any) -> bool:
        """Whether the document allows this request body."""
        template = self._template(method, path)
        validator = self._validator(self.document, "paths", template, method.lower(), "requestBody")
        return validator.is_valid(body)

    def check_response(self, method: str, path: str, status: int, body: Any) -> None:
        """AssertionError for a status or a body that the document does not have."""
        template = self._template(method, path)
        responses = self._operations[method, template]["responses"]
        assert str(status) in responses, f"{method} {path}: {status} is not in the document"
        validator = self._validator(
            self._closed, "paths", template, method.lower(), "responses", str(status)
        )
        problems = [f"{e.json_path}: {e.message}" for e in validator.iter_errors(body)]
        assert not problems, f"{method} {path} {status}: {problems}"

    def _validator(self, document: dict[str, Any], *where: str) -> Draft202012Validator:
        """The validator of the JSON content at a place of the document."""
        if where not in self._validators:
            steps = (*where, "content", "application/json", "schema")
            pointer = "/".join(s.replace("~", "~0").replace("/", "~1") for s in steps)
            resource = Resource.from_contents(document, default_specification=DRAFT202012)
            self._validators[where] = Draft202012Validator(
                {"$ref": f"urn:lambda#/{quote(pointer, safe='/~')}"},
                registry=Registry().with_resource("urn:lambda", resource),
            )
        return self._validators[where]


def _closed(node: Any) -> Any:
    if isinstance(node, list):
        return [_closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    copy = {key: _closed(value) for key, value in node.items()}
    if node.get("type") == "object" and isinstance(node.get("properties"), dict):
        copy.setdefault("additionalProperties", False)
    return copy
