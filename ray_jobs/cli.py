"""Command lines made from frozen config dataclasses: a recipe first, then single fields as flags.

    config, options = parse(argv, "raylambda sae", RECIPES, JobOptions)

Every field `learning_rate` of a config becomes `--learning-rate`; its help is the attribute
docstring under the field. `None`, `int`, `float`, `str` and `bool` are the types a flat config
needs; a flag of a wrong type, an unknown flag or recipe is one line and exit code 2.
"""

import argparse
import ast
import dataclasses
import difflib
import inspect
import itertools
import math
import textwrap
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.command_line import OneLineParser
from data.errors import ConfigError


def parse_recipe(
    argv: Sequence[str],
    prog: str,
    recipes: Mapping[str, Callable[[], tuple[Any, ...]]],
    parts: Sequence[str] = (),
) -> tuple[tuple[Any, ...], bool]:
    """Read `--recipe NAME`, single fields as flags, and `--json`.

    A recipe is a function that returns one or more frozen config dataclasses. A flag changes
    the field of that name in every config that has it, so that what two parts of a job must
    agree on (the model, the layer, the seed) is said once. `parts` names the configs: of a
    field `epochs` that several have, `--probe-epochs` changes the one in `probe` alone.

    Returns:
        The configs with the flags applied, and whether `--json` was given.

    Raises:
        ConfigError: an unknown recipe or flag, or a value that a config refuses.
    """
    parser = OneLineParser(
        prog=prog, allow_abbrev=False, description=f"Recipes: {', '.join(recipes)}."
    )
    parser.add_argument("--recipe", default=next(iter(recipes)), help="named set of defaults")
    parser.add_argument("--json", action="store_true", help="print the summary as a last JSON line")
    defaults = next(iter(recipes.values()))()
    seen: set[str] = set()
    for config, part in itertools.zip_longest(defaults, parts):
        names = _names(config)
        flags = {name: name for name in names if name not in seen}
        if part:
            others = {n for other in defaults if other is not config for n in _names(other)}
            flags |= {f"{part}_{name}": name for name in names if name in others}
        _add_flags(parser, type(config), flags)
        seen |= flags.keys()
    given, unknown = parser.parse_known_args(list(argv))
    if unknown:
        raise ConfigError(unknown[0], _unknown_flag(unknown[0], seen))
    if given.recipe not in recipes:
        raise ConfigError("--recipe", f"no recipe {given.recipe!r}; there are {', '.join(recipes)}")
    overrides = {name: value for name, value in vars(given).items() if value is not None}
    configs = itertools.zip_longest(recipes[given.recipe](), parts)
    return tuple(_override(config, part, overrides) for config, part in configs), given.json


def _names(config: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(config)]


def _override(config: Any, part: str | None, overrides: Mapping[str, Any]) -> Any:
    own = {name: overrides.get(f"{part}_{name}", overrides.get(name)) for name in _names(config)}
    return dataclasses.replace(config, **{k: v for k, v in own.items() if v is not None})


def _unknown_flag(flag: str, fields: set[str]) -> str:
    flags = [_flag(name) for name in fields]
    close = difflib.get_close_matches(flag.split("=")[0], flags, n=1)
    return "unknown flag; " + (f"did you mean {close[0]}?" if close else "see --help")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _add_flags(
    parser: argparse.ArgumentParser, config_class: type, flags: Mapping[str, str]
) -> None:
    """Add the flags, each with the name of its field."""
    helps = attribute_docs(config_class)
    hints = typing.get_type_hints(config_class)
    for name, field in flags.items():
        kind = _plain_type(hints[field])
        summary = helps.get(field, "").replace("%", "%%")
        if kind is bool:
            action = argparse.BooleanOptionalAction
            parser.add_argument(_flag(name), action=action, default=None, help=summary)
        else:
            parser.add_argument(_flag(name), type=kind, default=None, help=summary)


def _plain_type(hint: Any) -> type:
    """`int | None` -> int."""
    if isinstance(hint, types.UnionType):
        return next(kind for kind in hint.__args__ if kind is not type(None))
    return hint


def attribute_docs(config_class: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, by field name, on one line."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(config_class)))
    body = typing.cast(ast.ClassDef, tree.body[0]).body
    docs = {}
    for field, below in zip(body, body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            docs[field.target.id] = " ".join(str(below.value.value).split())
    return docs


# Numbers of a config that must lie in a range; errors name the field.


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
