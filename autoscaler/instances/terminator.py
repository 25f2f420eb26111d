"""The terminator: one idempotent call that ends instances and reports what failed."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from autoscaler.errors import (
    AutoscalerError,
    ConfigError,
    ConflictError,
    NotFoundError,
    StateError,
)
from autoscaler.events import EventLog
from autoscaler.lambda_cloud.client import LambdaClient
from autoscaler.money.ledger import Ledger

BATCH = 50
"""Ids in one request: one account-wide second each."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Terminated:
    """`gone` are on their way out, out, or were never there; `failed` may still run."""

    gone: set[str] = field(default_factory=set[str])
    failed: dict[str, AutoscalerError] = field(default_factory=dict[str, AutoscalerError])


class Terminator:
    """Thread-safe."""

    def __init__(
        self,
        client: LambdaClient,
        ledger: Ledger,
        events: EventLog,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._events = events
        self._clock = clock

    def terminate(self, instance_ids: Iterable[str], why: str) -> Terminated:
        """Asks Lambda to terminate the instances. Idempotent; does not raise: every id is in
        `gone` or `failed`, also where the state file cannot be used.

        `why` goes to the event log. When the API is away or refuses the key, the rest is not
        asked for: it would fail too, and take longer.
        """
        ids = list(dict.fromkeys(instance_ids))
        ended = Terminated()
        for start in range(0, len(ids), BATCH):
            self._end(ids[start : start + BATCH], ended)
        try:
            self._ledger.end(ended.gone, self._clock())
        except StateError as error:
            logger.warning("could not record which instances have ended: %s", error)
        for instance_id in sorted(ended.gone):
            self._events.write("terminated", instance=instance_id, why=why)
        for instance_id, error in sorted(ended.failed.items()):
            topic = f"terminate {instance_id}"
            self._events.write_change(
                topic, "terminate-failed", instance=instance_id, code=error.code, error=str(error)
            )
        return ended

    def _end(self, ids: Sequence[str], ended: Terminated) -> None:
        stopper = next((e for e in ended.failed.values() if not _is_about_one(e)), None)
        if stopper is not None:
            ended.failed.update(dict.fromkeys(ids, stopper))
            return
        try:
            answered = self._client.terminate(ids)
        except AutoscalerError as error:
            self._divide(ids, error, ended)
            return
        leaving = {instance.id for instance in answered if instance.status.is_terminating_or_gone}
        for instance_id in ids:
            if instance_id in leaving:
                ended.gone.add(instance_id)
            else:
                self._look(instance_id, None, ended)

    def _divide(self, ids: Sequence[str], error: AutoscalerError, ended: Terminated) -> None:
        """One bad id fails its batch: halve the batch until the id is alone."""
        if not _is_about_one(error):
            ended.failed.update(dict.fromkeys(ids, error))
        elif len(ids) > 1:
            middle = len(ids) // 2
            self._end(ids[:middle], ended)
            self._end(ids[middle:], ended)
        elif isinstance(error, NotFoundError):
            ended.gone.add(ids[0])
        else:
            self._look(ids[0], error, ended)

    def _look(self, instance_id: str, error: AutoscalerError | None, ended: Terminated) -> None:
        """Lambda answers a second termination with an error: only the status shows the end."""
        try:
            instance = self._client.get_instance(instance_id)
        except NotFoundError:
            ended.gone.add(instance_id)
            return
        except AutoscalerError as look_error:
            ended.failed[instance_id] = error or look_error
            return
        if instance.status.is_terminating_or_gone:
            ended.gone.add(instance_id)
        else:
            ended.failed[instance_id] = error or ConflictError(
                f"{instance_id}: termination requested, but it is still {instance.status}"
            )


def _is_about_one(error: AutoscalerError) -> bool:
    """True for an error that speaks of an id, not of the API or the account."""
    return isinstance(error, NotFoundError | ConflictError | ConfigError)
