"""The search space of a sweep, as one line of text.

    k=16,32,64 learning_rate=1e-4:1e-2 n_latents=1024,3072

A comma list is a choice; `low:high` is drawn evenly in the logarithm, as whole numbers for a
field of whole numbers. The fields are those of the job's config.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from data.errors import ConfigError

Point = dict[str, Any]
"""One value for each dimension, by the config's field name."""


@dataclass(frozen=True)
class Choice:
    """One of some values, each as likely."""

    values: tuple[Any, ...]

    def ends(self) -> tuple[Any, ...]:
        """The smallest and the largest value."""
        return tuple(sorted({min(self.values), max(self.values)}))


@dataclass(frozen=True)
class LogRange:
    """low <= value <= high, its logarithm uniform; whole numbers where `whole`."""

    low: float
    high: float
    whole: bool

    def ends(self) -> tuple[Any, ...]:
        """Both limits."""
        return (self.low, self.high)


Dimension = Choice | LogRange


@dataclass(frozen=True)
class Space:
    """The dimensions by field name, and the line of text they were read from."""

    text: str
    dimensions: Mapping[str, Dimension]

    def corners(self) -> Iterator[Point]:
        """Every combination of the dimensions' smallest and largest values."""
        names = list(self.dimensions)
        for values in itertools.product(*(d.ends() for d in self.dimensions.values())):
            yield dict(zip(names, values, strict=True))

    def distinct_points(self) -> float:
        """How many different points there are; infinity with a range of real numbers."""
        count: float = 1
        for dimension in self.dimensions.values():
            if isinstance(dimension, Choice):
                count *= len(dimension.values)
            elif dimension.whole:
                count *= dimension.high - dimension.low + 1
            else:
                return math.inf
        return count


def parse_space(text: str, kinds: Mapping[str, type]) -> Space:
    """Read a space; `kinds` gives the type, int or float, of every field that may vary.

    Raises:
        ConfigError: naming `space`, what is wrong in it, and how to fix it.
    """
    dimensions: dict[str, Dimension] = {}
    for word in text.split():
        name, equals, values = word.partition("=")
        if not equals or not values:
            raise ConfigError("space", f'{word!r} is not a dimension: write "k=16,32" or "k=16:64"')
        if name not in kinds:
            raise ConfigError("space", f"no field {name!r} may vary; there are {', '.join(kinds)}")
        if name in dimensions:
            raise ConfigError("space", f"{name} stands in it twice: keep one")
        dimensions[name] = _dimension(name, values, kinds[name])
    if not dimensions:
        raise ConfigError("space", 'is empty: name at least one field, as in "k=16,32,64"')
    return Space(" ".join(text.split()), dimensions)


def check_space(space: Space, trials: int, build: Callable[[Point], object]) -> None:
    """Refuse a space that holds a config the job refuses, or fewer points than trials.

    Raises:
        ConfigError: the point and what `build` says of it.
    """
    for point in space.corners():
        try:
            build(point)
        except ConfigError as error:
            raise ConfigError(
                "space", f"contradicts itself at {shown_point(point)}: {error}; narrow it"
            ) from error
    if trials > space.distinct_points():
        raise ConfigError(
            "trials",
            f"{trials} are more than the space has points ({space.distinct_points():.0f}): "
            "widen the space or ask for fewer",
        )


def shown_point(point: Mapping[str, Any]) -> str:
    """ "k=64 learning_rate=0.00123"."""
    return " ".join(f"{name}={shown_value(value)}" for name, value in point.items())


def shown_value(value: Any) -> str:
    """Real numbers with three digits that count."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _dimension(name: str, text: str, kind: type) -> Dimension:
    if ":" not in text:
        values = tuple(_number(name, each, kind) for each in text.split(","))
        if len(set(values)) < len(values):
            raise ConfigError("space", f"{name} names a value twice: {text}")
        return Choice(values)
    limits = [_number(name, each, kind) for each in text.split(":")]
    if len(limits) != 2 or not 0 < limits[0] < limits[1]:
        raise ConfigError("space", f'{name}={text}: write "LOW:HIGH" with 0 < LOW < HIGH')
    return LogRange(limits[0], limits[1], kind is int)


def _number(name: str, text: str, kind: type) -> Any:
    try:
        value = kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ConfigError("space", f"{name}: {text!r} is not {what}") from None
    if not math.isfinite(value):
        raise ConfigError("space", f"{name}: {text!r} is not finite")
    return value
