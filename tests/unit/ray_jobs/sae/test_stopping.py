import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import ConfigError
from ray_jobs.sae.early_stopping import PlateauRule, PlateauState, observe


def run(rule: PlateauRule, values: list[float]) -> int | None:
    """The index of the check at which the rule stops, or None."""
    state = PlateauState()
    for index, value in enumerate(values):
        state, stop = observe(rule, state, value)
        if stop:
            return index
    return None


def test_two_checks_without_one_percent_stop():
    assert run(PlateauRule(), [1.0, 0.5, 0.499, 0.498]) == 3


def test_one_percent_of_improvement_goes_on():
    assert run(PlateauRule(), [1.0, 0.99, 0.98, 0.97, 0.96]) is None


def test_a_bad_check_in_between_does_not_stop():
    assert run(PlateauRule(), [1.0, 1.1, 0.9, 0.95, 0.8]) is None


def test_slow_creep_counts_once_it_adds_up():
    values = [1.0, 0.994, 0.988, 0.982, 0.976, 0.97]
    assert run(PlateauRule(patience=2), values) is None
    assert run(PlateauRule(patience=1), values) == 1


def test_rising_metric():
    rule = PlateauRule(metric="f1", rising=True)
    assert run(rule, [0.5, 0.6, 0.601, 0.602]) == 3
    assert run(rule, [0.5, 0.6, 0.7, 0.8]) is None


def test_a_constant_metric_stops_even_at_threshold_zero():
    assert run(PlateauRule(threshold=0.0), [0.0, 0.0, 0.0]) == 2


@given(st.lists(st.floats(1e-3, 10), min_size=1, max_size=30), st.integers(0, 29))
def test_resume_in_the_middle_stops_at_the_same_check(values, cut):
    rule = PlateauRule()
    state = PlateauState()
    stopped = None
    for index, value in enumerate(values):
        if index == cut:
            state = PlateauState(**state.to_dict())
        state, stop = observe(rule, state, value)
        if stop:
            stopped = index
            break
    assert stopped == run(rule, values)


def test_fields_are_checked():
    with pytest.raises(ConfigError, match="patience"):
        PlateauRule(patience=0)
    with pytest.raises(ConfigError, match="threshold"):
        PlateauRule(threshold=1.5)
    with pytest.raises(ValueError, match="nan"):
        observe(PlateauRule(), PlateauState(), float("nan"))
