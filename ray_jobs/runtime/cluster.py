"""The Ray cluster under a job: which one to join, what fits on its nodes, which storage they share.

Nodes are those that are up and those that the autoscaler could start. `Resources` are Ray's:
{"CPU": 4, "GPU": 1}.
"""

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from data.errors import ConfigError, InputError, RefusedError
from data.storage.probe import Probe, probed

Resources = Mapping[str, float]

HEAD_CONFIG = "ray_bootstrap_config.yaml"
"""In the home directory of a head."""

_ANSWER_TIMEOUT_S = 10.0


def node_that_fits(needs: Resources) -> Resources:
    """The resources of a node, up or startable, with room for a worker or trial; of several, the
    one with the least of what is needed.

    Raises:
        RefusedError: there is none, so that the worker would wait forever.
    """
    standing, startable = standing_nodes(), startable_nodes()
    fitting = [node for node in [*standing, *startable] if fits(needs, node)]
    if not fitting:
        kinds = "; ".join(sorted({shown(node) for node in [*standing, *startable]})) or "no nodes"
        raise RefusedError(
            f"no node has room for {shown(needs)}, and none could be started: the "
            f"cluster has {kinds}. Ask for less with --cpus-per-worker or --no-use-gpu, or add a "
            "node type"
        )
    return min(fitting, key=lambda node: sum(node.get(name, 0) for name in needs))


def fits(needs: Resources, node: Resources) -> bool:
    """Whether an empty node has all the resources."""
    return all(node.get(name, 0) >= need for name, need in needs.items())


def check_room(needs: Resources, workers: int) -> None:
    """Refuse workers that all nodes together, up and startable, could never hold at once.

    Raises:
        RefusedError: there is no room for so many, or for even one.
    """
    node_that_fits(needs)
    most = room([*standing_nodes(), *startable_nodes()], needs)
    if most < workers:
        raise RefusedError(
            f"{workers} workers of {shown(needs)} each are asked for, and all nodes that are up or "
            f"could be started have room for {most}: lower --num-workers or --cpus-per-worker, "
            "or add nodes"
        )


def cpus_for_each(workers: int) -> int:
    """The most CPUs that each of `workers` can have; 1 where not even that is there.

    The nodes that are up are shared out; only where those are too few, also the startable ones.
    """
    standing = standing_nodes()
    for nodes in (standing, [*standing, *startable_nodes()]):
        largest = int(max((node.get("CPU", 0) for node in nodes), default=0))
        for cpus in range(largest, 0, -1):
            if room(nodes, {"CPU": cpus}) >= workers:
                return cpus
    return 1


def has_gpus() -> bool:
    """Whether a node has a GPU, be it one that the autoscaler may start."""
    return any(node.get("GPU", 0) >= 1 for node in [*standing_nodes(), *startable_nodes()])


def room_now(needs: Resources) -> int:
    """How many workers or trials the nodes that are up have room for when they are empty."""
    return room(standing_nodes(), needs)


def room(nodes: Sequence[Resources], needs: Resources) -> int:
    """How many workers or trials `nodes` have room for when they are empty."""
    return sum(
        int(min(node.get(name, 0) // need for name, need in needs.items() if need))
        for node in nodes
    )


def standing_nodes() -> list[dict[str, float]]:
    """Resources of every node that is up."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def startable_nodes() -> list[dict[str, float]]:
    """Resources of every node that the autoscaler may have, those that it has started included;
    none where no autoscaler runs."""
    types = node_types().values()
    return [dict(each["resources"]) for each in types for _ in range(each.get("max_workers", 0))]


def node_types() -> dict[str, dict[str, Any]]:
    """The autoscaler's node types by name; none where no autoscaler runs.

    Read from the configuration that Ray's autoscaler itself reads, on the head, where drivers of
    jobs run: Ray's control service knows the nodes that are, not those that could be.
    """
    try:
        # JSON, whatever its name says.
        cluster = json.loads((Path.home() / HEAD_CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return cluster["available_node_types"]


def shown(resources: Resources | Sequence[tuple[str, float]]) -> str:
    """ "4 CPU, 1 GPU"; memory and the names of nodes are left out."""
    pairs = dict(resources)
    return ", ".join(f"{pairs[name]:g} {name}" for name in ("CPU", "GPU") if pairs.get(name))


def address_to_join() -> str | None:
    """The address for `ray.init`: None, which lets Ray find the cluster, or "local" for a new one.

    Where nothing answers, Ray itself would retry for a quarter of an hour and then fail with an
    internal error. `ray start` writes its address to a file that only `ray stop` removes, so the
    file of a Ray that was killed leads nowhere.

    Raises:
        InputError: no Ray is at RAY_ADDRESS.
    """
    asked = os.environ.get("RAY_ADDRESS", "")
    if asked:
        if asked not in ("local", "auto"):
            try:
                _knock(asked.removeprefix("ray://"))
            except (OSError, ValueError) as error:
                raise no_ray_at(asked, error) from error
        return None
    noted = Path(os.environ.get("RAY_TMPDIR") or "/tmp", "ray", "ray_current_cluster")
    try:
        _knock(noted.read_text().strip())
    except (OSError, ValueError):
        return "local"
    return None


def no_ray_at(address: str, why: Exception) -> InputError:
    """The error for a RAY_ADDRESS at which no Ray answers."""
    return InputError(
        f"RAY_ADDRESS is {address!r}, and no Ray answers there ({why}): give the head's "
        "host:port, or unset it for a Ray of this machine"
    )


def _knock(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise ValueError("it names no port")
    socket.create_connection((host, int(port)), _ANSWER_TIMEOUT_S).close()


@contextmanager
def check_output_locations(output_dir: str, storage: str | None) -> Iterator[Probe]:
    """Check that a job's output locations can be written, and give its workers a probe with which
    they check that their nodes share them.

    Ray is initialised. `storage` None: the output_dir.

    Raises:
        ConfigError: a location is in the copy of the working directory that Ray makes for a
            submitted job and deletes after it; the message starts with the field.
        StorageError: a location cannot be written.
    """
    in_copy = bool(ray.get_runtime_context().runtime_env.get("working_dir"))
    for field, uri in (("output_dir", output_dir), ("storage", storage)):
        if in_copy and uri is not None and "://" not in uri and not os.path.isabs(uri):
            raise ConfigError(
                field,
                f"{uri!r} lies in this job's copy of the working directory, which Ray deletes: "
                "give s3://bucket/path, or the absolute path of a directory that all nodes share",
            )
    with probed([output_dir, storage or output_dir]) as probe:
        yield probe
