"""The provider's contract names each operation that Ray calls, and what the caller may count on."""

import inspect
from types import FunctionType

from ray.autoscaler.node_provider import NodeProvider

from autoscaler.nodes.contract import NodeProviderContract
from autoscaler.provider import LambdaNodeProvider

OPERATIONS = {
    name: getattr(NodeProviderContract, name)
    for name, value in vars(NodeProviderContract).items()
    if isinstance(value, FunctionType | staticmethod) and not name.startswith("_")
}
READING = {name for name in OPERATIONS if name.startswith(("is_", "safe_", "node_tags"))} | {
    "non_terminated_nodes",
    "nodes_for_teardown",
    "external_ip",
    "internal_ip",
}
WITHOUT_PROMISES = {"get_command_runner", "fillout_available_node_types_resources"}
"""What makes an object or completes a dictionary, and asks nobody."""


def test_every_operation_of_rays_that_we_have_is_in_the_contract():
    ours = {
        name
        for name, value in vars(LambdaNodeProvider).items()
        if callable(value) and hasattr(NodeProvider, name) and not name.startswith("_")
    }
    assert ours - OPERATIONS.keys() == WITHOUT_PROMISES


def test_every_operation_of_the_contract_is_kept_with_its_parameters():
    for name, operation in OPERATIONS.items():
        kept = getattr(LambdaNodeProvider, name)
        assert list(inspect.signature(kept).parameters) == list(
            inspect.signature(operation).parameters
        ), name


def test_what_changes_something_says_whether_it_is_idempotent():
    for name in OPERATIONS.keys() - READING:
        assert "idempotent" in str(OPERATIONS[name].__doc__).lower(), name
