"""Log filters for Ray's own log on the head, which would repeat itself in every round.

Autoscaler v2 reads its configuration again every five seconds, and warns each time of two
fields that Ray itself has put there. An error of ours that lasts (a refused key) would be
logged with its traceback in each round: it is logged once, in one line, and again each hour.
"""

import logging
import time
from collections.abc import Callable

from autoscaler.errors import AutoscalerError

REPEAT_S = 3600.0
_CONFIG_LOGGER = "ray.autoscaler._private.util"
_ROUND_LOGGERS = (
    "ray.autoscaler.v2.autoscaler",
    "ray.autoscaler._private.autoscaler",
    "ray.autoscaler._private.monitor",
)


class DropLegacyWarnings(logging.Filter):
    """Of fields that Ray itself has put into the configuration."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "legacy field" not in record.getMessage()


class LogOnce(logging.Filter):
    """Of records with an error of ours, each text once in REPEAT_S, without its traceback."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._logged_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        ours = error if isinstance(error, AutoscalerError) else getattr(error, "__cause__", None)
        if not isinstance(ours, AutoscalerError):
            return True
        text = str(ours)
        now_s = self._clock()
        if now_s - self._logged_s.get(text, -REPEAT_S) < REPEAT_S:
            return False
        self._logged_s[text] = now_s
        record.msg, record.args = "Lambda: %s", (text,)
        record.exc_info = None
        return True


def filter_ray_logs() -> None:
    """Adds the filters to Ray's loggers. Idempotent."""
    _add(_CONFIG_LOGGER, DropLegacyWarnings())
    once = LogOnce()
    for name in _ROUND_LOGGERS:
        _add(name, once)


def _add(name: str, new: logging.Filter) -> None:
    logger = logging.getLogger(name)
    if not any(type(known) is type(new) for known in logger.filters):
        logger.addFilter(new)
