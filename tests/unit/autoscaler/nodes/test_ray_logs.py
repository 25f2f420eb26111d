"""Ray's own log, without its repetitions."""

import logging

import pytest

from autoscaler.errors import AuthError
from autoscaler.nodes import ray_logs
from autoscaler.provider import ProviderError


@pytest.fixture
def clock():
    return [0.0]


def records(filter_, *errors):
    logger = logging.Logger("ray")
    logger.addFilter(filter_)
    kept = []
    logger.addHandler(handler := logging.Handler())
    handler.emit = kept.append
    for error in errors:
        try:
            raise error
        except Exception as caught:
            logger.exception(caught)
    return kept


def ours(text="refused"):
    error = ProviderError(AuthError(text))
    error.__cause__ = AuthError(text)
    return error


def test_an_error_of_ours_is_logged_once_in_one_line(clock):
    once = ray_logs.LogOnce(lambda: clock[0])
    kept = records(once, *[ours() for _ in range(50)], ours("other"))
    assert [r.getMessage() for r in kept] == ["Lambda: refused", "Lambda: other"]
    assert all(r.exc_info is None for r in kept)
    clock[0] = ray_logs.REPEAT_S + 1
    assert len(records(once, ours())) == 1


def test_errors_of_others_keep_their_traceback(clock):
    once = ray_logs.LogOnce(lambda: clock[0])
    kept = records(once, ValueError("a"), ValueError("a"))
    assert len(kept) == 2 and all(r.exc_info for r in kept)


def test_ray_does_not_warn_of_its_own_fields(caplog):
    logger = logging.getLogger("ray.autoscaler._private.util")
    ray_logs.filter_ray_logs()
    ray_logs.filter_ray_logs()
    assert sum(isinstance(f, ray_logs.DropLegacyWarnings) for f in logger.filters) == 1
    kept = [f for f in logger.filters if isinstance(f, ray_logs.DropLegacyWarnings)]
    record = logging.LogRecord("x", 30, "f", 1, "Dropping the empty legacy field %s.", ("a",), None)
    assert not kept[0].filter(record)
    record = logging.LogRecord("x", 30, "f", 1, "something else", (), None)
    assert kept[0].filter(record)
