"""Random schedules through Ray's real autoscalers: no leaks, doubles, rush or overspending."""

import logging

import pytest
from hypothesis import HealthCheck, given, settings

from tests.reconciling.schedules import check, live_through, schedules
from tests.reconciling.v1 import V1Monitor
from tests.reconciling.v2 import V2Monitor

pytestmark = pytest.mark.timeout(1800)

SETTINGS = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(autouse=True)
def quiet():
    """What Ray logs of hundreds of clusters."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@settings(SETTINGS, max_examples=200)
@given(schedule=schedules())
def test_whatever_happens_under_v2_everything_ends_and_nothing_doubles(schedule):
    check(live_through(schedule, V2Monitor), schedule)


@settings(SETTINGS, max_examples=40)
@given(schedule=schedules())
def test_whatever_happens_under_v1_everything_ends_and_nothing_doubles(schedule):
    check(live_through(schedule, V1Monitor), schedule)
