"""Numbers of a config that must lie in a range; errors name the field."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from data.errors import ConfigError


@dataclass(frozen=True)
class Ranges:
    """`closed`: lowest and highest value by field; `positive`: fields of any value above 0."""

    closed: Mapping[str, tuple[float, float]]
    positive: Collection[str]

    def check(self, name: str, value: object, annotation: object) -> None:
        """Refuse a field's value that is no number, or out of its range; other fields pass.

        Raises:
            ConfigError: it names the field.
        """
        if value is None and "None" in str(annotation):
            return
        if name not in self.closed and name not in self.positive:
            return
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(name, f"{value!r} is not a number")
        if annotation is not float and not isinstance(value, int):
            raise ConfigError(name, f"{value!r} is not a whole number")
        if name in self.positive:
            if not 0 < value < math.inf:
                raise ConfigError(name, f"{value} is not a positive number")
            return
        low, high = self.closed[name]
        if not low <= value <= high:
            limit = f"at least {low}" if high == math.inf else f"from {low} to {high}"
            raise ConfigError(name, f"{value} is out of range: give {limit}")
