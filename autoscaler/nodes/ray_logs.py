"""Ray's own log on the head without what says nothing, over and over.

Autoscaler v2 reads its configuration again every five seconds, and warns each time of two
fields that Ray itself has put there. An error of ours that lasts (a refused key) would be
logged with its traceback in each round: it is said once, in one line, and again each hour.
"""

import logging
import time
from collections.abc import Callable

from autoscaler.errors import AutoscalerError

SAY_AGAIN_S = 3600.0
_WARNS_OF_ITSELF = "ray.autoscaler._private.util"
_LOGS_ROUNDS = (
    "ray.autoscaler.v2.autoscaler",
    "ray.autoscaler._private.autoscaler",
    "ray.autoscaler._private.monitor",
)


class DropLegacyWarnings(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return "legacy field" not in record.getMessage()


class SayOnce(logging.Filter):
    """For records with an exception that stems from one of ours."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        ours = error if isinstance(error, AutoscalerError) else getattr(error, "__cause__", None)
        if not isinstance(ours, AutoscalerError):
            return True
        text = str(ours)
        now_s = self._clock()
        if now_s - self._said_s.get(text, -SAY_AGAIN_S) < SAY_AGAIN_S:
            return False
        self._said_s[text] = now_s
        record.msg, record.args = "Lambda: %s", (text,)
        record.exc_info = None
        return True


def quieten_ray() -> None:
    """Idempotent."""
    _add(_WARNS_OF_ITSELF, DropLegacyWarnings())
    once = SayOnce()
    for name in _LOGS_ROUNDS:
        _add(name, once)


def _add(name: str, new: logging.Filter) -> None:
    logger = logging.getLogger(name)
    if not any(type(known) is type(new) for known in logger.filters):
        logger.addFilter(new)
