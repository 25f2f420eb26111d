"""Nodes for Ray: bounded in time, one launch after the other, honest about what was not made.

Ray's autoscaler repeats a failed call every five seconds and without end, and takes a call
that lasts over ten minutes for lost. So a call that made fewer nodes than asked is held for a
while, and then raises, naming what was refused and when the next try makes sense.
"""

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

from autoscaler.domain import Instance, InstanceType, Status
from autoscaler.errors import AccountError, AuthError, AutoscalerError, CapacityError
from autoscaler.instances.acquire import Choice
from autoscaler.instances.launcher import Launched, NodeSpec
from autoscaler.lambda_cloud.tags import USER_NODE_TYPE, launch_tags
from autoscaler.money.budget import Caps
from autoscaler.nodes.listing import NodeList
from autoscaler.session import Session

CREATE_S = 120.0
"""Time for one call; Ray asks for at most five nodes, and a launch slot comes every 12.5 s."""
HOLD_S = 20.0
"""Shortest time that a failing call takes."""
HEAD_S = 300.0
"""Time for the head, whose regions are tried one after the other."""

logger = logging.getLogger(__name__)


class Creator:
    """Thread-safe."""

    def __init__(self, session: Session, nodes: NodeList) -> None:
        self._session = session
        self._nodes = nodes

    @contextmanager
    def held(self, cluster: str, tags: Mapping[str, str], count: int) -> Generator[list[str]]:
        """For a call that is to make `count` workers: a failure is said, held, and raised.

        The block puts the ids of what it has made into the list; they live on.
        """
        started_s = self._session.clock()
        made: list[str] = []
        try:
            yield made
        except AutoscalerError as error:
            self._say(cluster, tags, len(made), count, error)
            left_s = started_s + HOLD_S - self._session.clock()
            if left_s > 0:
                self._session.sleep(left_s)
            raise

    def create_workers(self, spec: NodeSpec, choice: Choice, count: int, made: list[str]) -> None:
        """Launches within CREATE_S, one after the other; raises what stopped it."""
        deadline_s = self._session.clock() + CREATE_S
        for _ in range(count):
            made.append(self._one(spec, choice, deadline_s))

    def create_head(
        self, spec: NodeSpec, candidates: Sequence[str], regions: Sequence[str], caps: Caps
    ) -> str:
        """The head's id. Tries each region in full before the next. Raises AutoscalerError."""
        deadline_s = self._session.clock() + HEAD_S
        refusal = CapacityError("no region is left to try")
        for region in regions:
            try:
                return self._one(spec, Choice(candidates, (region,), caps), deadline_s)
            except CapacityError as error:
                refusal = error
                self._say(spec.cluster, spec.ray_tags, 0, 1, error)
        raise refusal

    def _one(self, spec: NodeSpec, choice: Choice, deadline_s: float) -> str:
        launched = self._session.acquirer.acquire(spec, choice, deadline_s)
        instance = self._as_launched(spec, launched)
        # Every tag of the launch is kept here too: Lambda may lose one.
        self._session.tags.merge(instance.id, {**instance.tags, **spec.ray_tags})
        self._nodes.add(instance)
        return instance.id

    def _as_launched(self, spec: NodeSpec, launched: Launched) -> Instance:
        """The machine as a list will show it: lists lag behind launches."""
        offering = launched.offering
        known = self._session.catalog.known(offering.instance_type)
        return Instance(
            id=launched.instance_id,
            status=Status.BOOTING,
            region=offering.region,
            instance_type=known or InstanceType(offering.instance_type, "", "", None, 0, 0, 0, 0),
            tags=launch_tags(
                spec.ray_tags,
                spec.cluster,
                launched.nonce,
                launched.created_s,
            ),
        )

    def _say(
        self,
        cluster: str,
        tags: Mapping[str, str],
        made: int,
        asked: int,
        error: AutoscalerError,
    ) -> None:
        node_type = tags.get(USER_NODE_TYPE, "")
        fields: Mapping[str, str | int | None] = {
            "cluster": cluster,
            "node_type": node_type,
            "asked": asked,
            "made": made,
            "code": error.code,
            # A refused key is one fact, whichever request has met it.
            "error": None if isinstance(error, AuthError | AccountError) else str(error),
        }
        topic = f"create {cluster} {node_type}"
        if self._session.events.write_change(topic, "create-failed", **fields):
            logger.warning("%s: %d of %d nodes: %s", node_type, made, asked, error)
