"""Types of config fields with their ranges, checked by pydantic; errors name the field.

@dataclass(frozen=True)
class Config:
    epochs: Count = 4

    def __post_init__(self) -> None:
        check_fields(self)

Values are checked and never converted: 7 in a float field stays an int.
"""

import dataclasses
import typing
from functools import cache
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from data.errors import ConfigError

Count = Annotated[int, Field(ge=1)]
"""1 or more."""
Natural = Annotated[int, Field(ge=0)]
"""0 or more."""
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""Finite, above 0."""
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Finite, 0 or more."""
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""From 0 to 1."""


def check_fields(config: Any) -> None:
    """Check every field of a dataclass instance against its annotation.

    Raises:
        ConfigError: the first value of a wrong type or out of its range.
    """
    for name, adapter in _adapters(type(config)).items():
        value = getattr(config, name)
        try:
            adapter.validate_python(value, strict=True)
        except ValidationError as error:
            raise ConfigError(name, _problem(value, error)) from None


@cache
def _adapters(config_class: type) -> dict[str, TypeAdapter[Any]]:
    hints = typing.get_type_hints(config_class, include_extras=True)
    return {
        field.name: TypeAdapter(hints[field.name]) for field in dataclasses.fields(config_class)
    }


def _problem(value: object, error: ValidationError) -> str:
    """What is wrong with a value and what would be right, on one line."""
    found = error.errors()[0]
    limits = found.get("ctx", {})
    match found["type"]:
        case "int_type":
            return f"{value!r} is not a whole number"
        case "float_type" | "finite_number":
            return f"{value!r} is not a finite number"
        case "greater_than_equal":
            return f"{value} is out of range: give at least {limits['ge']:g}"
        case "greater_than":
            return f"{value} is out of range: give more than {limits['gt']:g}"
        case "less_than_equal":
            return f"{value} is out of range: give at most {limits['le']:g}"
        case "literal_error":
            choices = limits["expected"].replace("'", "").replace(" or ", ", ")
            return f"{value!r} is not one of {choices}"
    return f"{value!r}: {found['msg'][0].lower()}{found['msg'][1:]}"
