"""A config's value that its type refuses is one line that names the field and what would do."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from data.errors import ConfigError
from ray_jobs.fields import Count, Natural, Positive, Share, check_fields


@dataclass(frozen=True)
class Config:
    epochs: Count = 4
    skipped: Natural = 0
    rate: Positive = 0.1
    share: Share = 0.5
    rounds: Annotated[int, Field(ge=1, le=8)] | None = None
    kind: Literal["a", "b"] = "a"
    level: Literal[0, 1, 2] = 0
    name: str = ""

    def __post_init__(self) -> None:
        check_fields(self)


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("epochs", 0, "0 is out of range: give at least 1"),
        ("epochs", 1.5, "1.5 is not a whole number"),
        ("epochs", True, "True is not a whole number"),
        ("epochs", None, "None is not a whole number"),
        ("skipped", -1, "-1 is out of range: give at least 0"),
        ("rate", 0.0, "0.0 is out of range: give more than 0"),
        ("rate", float("nan"), "nan is not a finite number"),
        ("rate", "7", "'7' is not a finite number"),
        ("share", 1.5, "1.5 is out of range: give at most 1"),
        ("rounds", 9, "9 is out of range: give at most 8"),
        ("kind", "c", "'c' is not one of a, b"),
        ("level", 3, "3 is not one of 0, 1, 2"),
        ("name", 7, "7: input should be a valid string"),
    ],
)
def test_what_is_wrong_and_what_would_do(field: str, value: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**{field: value})
    assert str(caught.value) == f"{field}: {problem}"


def test_values_are_checked_and_not_converted() -> None:
    config = Config(rate=1, rounds=8)
    assert type(config.rate) is int and config.rounds == 8
