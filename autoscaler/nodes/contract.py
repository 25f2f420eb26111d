"""The provider's contract: what Ray may count on in each operation, in one place.

`autoscaler.provider.LambdaNodeProvider` keeps it. Common to all operations:

- They are thread-safe, and any process of the machine may call them at the same time.
- The first one opens the cluster: it raises ProviderError (one line, with our exit code) for a
  wrong provider section or a missing key, and the next operation tries again.
- A request waits for its turn in the account's rate, and what may be sent twice is sent up to
  four times, 45 s each at most. "At once" is: without a request.
- Node ids are Lambda's instance ids; tags are Ray's.
"""

from collections.abc import Mapping
from typing import Any, Protocol


class NodeProviderContract(Protocol):
    """Ray's `NodeProvider` as far as Ray's autoscalers and commands use it, and what we add."""

    # Reading: all of it is idempotent.

    def non_terminated_nodes(self, tag_filters: Mapping[str, str]) -> list[str]:
        """Nodes that Ray may use, from a list at most 4 s old; one thread reads, others wait.

        A node that was launched here is shown at once, one that Lambda's list leaves out stays
        until Lambda says of itself that it is gone. While the API fails, the last good list
        stands for 120 s; then ProviderError, never an empty list. Each new list also repairs: it
        settles old launches, sends failed terminations again and, on the head, terminates
        unhealthy nodes, or everything before the total cap is passed.
        """
        ...

    def nodes_for_teardown(self, tag_filters: Mapping[str, str]) -> list[str]:
        """All that bills: also unhealthy machines and those without Ray's tags. Errors and delay
        as of `non_terminated_nodes`; repairs nothing."""
        ...

    def is_running(self, node_id: str) -> bool:
        """Whether the machine is active and has both addresses, as last seen; at once for a known
        node. Does not raise for an API that is away."""
        ...

    def is_terminated(self, node_id: str) -> bool:
        """Whether the node is gone or on its way out, by a list at most 4 s old. Does not raise
        for an API that is away: the last list stands."""
        ...

    def node_tags(self, node_id: str) -> dict[str, str]:
        """At once for a known node; its last tags for ten minutes after its end, then {}."""
        ...

    def external_ip(self, node_id: str) -> str | None:
        """None while unknown. At once if known, else after a look as of `is_terminated`."""
        ...

    def internal_ip(self, node_id: str) -> str | None:
        """None while unknown. At once if known, else after a look as of `is_terminated`."""
        ...

    def safe_to_scale(self) -> bool:
        """At once. False while an old list stands for an API that fails."""
        ...

    # Changing

    def create_node(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int
    ) -> dict[str, Any]:
        """The new nodes by id. Not idempotent: each call launches.

        Workers: takes at most 120 s and one answer (45 s), and at least 20 s when it fails.
        Raises NodeLaunchException unless there are `count`, with the error's name as category
        ("Capacity", "Budget", "Quota", "Auth", "AmbiguousLaunch", ...); those that were made
        live on and are listed. Nothing is launched that passes a cap of the YAML, nor without
        the state file. A launch is sent once; where its outcome stays unknown, its instance is
        terminated if it appears.

        The head: takes at most 300 s and one answer, and after an unknown outcome up to 15
        minutes more. Raises ProviderError; then no head is left. At most one head: a conflict
        otherwise.
        """
        ...

    def create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> dict[str, Any]:
        """As `create_node`, which is not idempotent: the instance types decide the resources."""
        ...

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        """Idempotent, but for the node status "update-failed": the third of a worker terminates
        it, as does the first of a machine that never came up. At once otherwise. ProviderError
        where the state file cannot be written."""
        ...

    def terminate_node(self, node_id: str) -> None:
        """As `terminate_nodes`: idempotent."""
        ...

    def terminate_nodes(self, node_ids: list[str]) -> None:
        """Idempotent; ids that are gone or unknown count as terminated. Returns when Lambda has
        accepted it, one request for 50 ids. Does not raise for what fails: it is sent again with
        each new list until it works."""
        ...

    def report_unhealthy(self, node_id: str, reason: str) -> None:
        """Idempotent. Terminates the node as `terminate_nodes` does, and its offering is
        unavailable for ten minutes or more. Does not raise."""
        ...

    def cleanup_cluster_resources(self) -> None:
        """The end of `ray down`. Idempotent. Returns when nothing of the cluster bills and 45 s
        have shown nothing more, and has removed the cluster's files.

        Exits the process (SystemExit with our exit code) where that is not so after 15 minutes,
        or the key is refused: Ray would take an exception for a detail.
        """
        ...

    def prepare_for_head_node(self, cluster_config: dict[str, Any]) -> dict[str, Any]:
        """The head's own configuration. Idempotent; ProviderError for a YAML that Lambda cannot
        satisfy, or without a head. Some requests: seconds."""
        ...

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """What `ray up` makes of the YAML. Idempotent: the same YAML gives the same outcome. Writes
        the cluster's files and the machine's SSH key, and sends nothing. ProviderError, naming the
        field, for a mistake in the YAML or a missing key."""
        ...
