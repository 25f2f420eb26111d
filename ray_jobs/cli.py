"""Command lines made from frozen config dataclasses: a recipe first, then single fields as flags.

    (sae, data, job), as_json = parse_recipe(argv, "python -m ray_jobs.sae.train", RECIPES, PARTS)

Every field `learning_rate` of a config becomes `--learning-rate`. Its help is the docstring under
the field and its value in the first recipe; a comment line `# Early stopping` between fields
starts a group. A wrong value, an unknown flag or an unknown recipe is one line and exit code 2.
Nothing heavy is imported here, so that `--help` and a typo answer at once.
"""

import argparse
import ast
import dataclasses
import difflib
import inspect
import json
import sys
import textwrap
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data.command_line import OneLineParser
from data.errors import ConfigError

ALIASES = {
    "num_epochs": "epochs",
    "run": "run_dir",
    "dataset": "data",
    "test_dataset": "test_data",
    "checkpoint_interval": "checkpoint_every_steps",
    "checkpoint_minutes": "checkpoint_every_minutes",
    "validation_interval": "eval_every_steps",
    "max_cost_usd": "max_cost_cents",
}
"""Other names of fields, which are accepted and not shown."""


def parse_recipe(
    argv: Sequence[str],
    prog: str,
    recipes: Mapping[str, Callable[[], tuple[Any, ...]]],
    parts: Sequence[str],
) -> tuple[tuple[Any, ...], bool]:
    """Read `--recipe NAME`, single fields as flags, and `--json`.

    A recipe is a function that returns one or more frozen config dataclasses. A flag changes
    the field of that name in every config that has it, so that what two parts of a job must
    agree on (the model, the layer, the seed) is said once. `parts` names the configs: of a
    field `epochs` that several have, `--probe-epochs` changes the one in `probe` alone.
    `--help` and `--print-config` print and end the process with code 0.

    Returns:
        The configs with the flags applied, and whether `--json` was given.

    Raises:
        ConfigError: an unknown recipe or flag, or a value that a config refuses.
    """
    first = next(iter(recipes))
    parser = OneLineParser(
        prog=prog,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=_HelpFormatter,
        description=f"Recipes: {', '.join(recipes)}. A flag changes one value of the recipe; the "
        f"defaults shown are those of {first}. The value none lifts a limit.",
    )
    parser.add_argument("--recipe", default=first, help=f"named set of values (default: {first})")
    parser.add_argument(
        "--print-config", action="store_true", help="print all values as JSON, and end"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as a last JSON line")
    fields = _add_config_flags(parser, recipes[first](), parts)
    given, unknown = parser.parse_known_args(list(argv))
    if unknown:
        raise ConfigError(unknown[0], _unknown_flag(unknown[0], fields))
    if given.recipe not in recipes:
        raise ConfigError("--recipe", f"no recipe {given.recipe!r}; there are {', '.join(recipes)}")
    configs = tuple(
        _override(config, part, vars(given))
        for config, part in zip(recipes[given.recipe](), parts, strict=True)
    )
    if "print_config" in given:
        shown = {part: dataclasses.asdict(c) for part, c in zip(parts, configs, strict=True)}
        sys.stdout.write(json.dumps({"recipe": given.recipe, **shown}, indent=2) + "\n")
        sys.exit(0)
    return configs, "json" in given


class _HelpFormatter(argparse.HelpFormatter):
    """Flags in a column wide enough for most names."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=36)

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any = None) -> None:
        """`prog [flags]`: sixty flags in a row would only repeat what follows."""
        super().add_usage(f"{self._prog} [--recipe NAME] [flags]", actions, groups, prefix)


def _add_config_flags(
    parser: argparse.ArgumentParser, defaults: Sequence[Any], parts: Sequence[str]
) -> set[str]:
    """Add a flag for each field, and its hidden aliases; returns the names of the visible ones."""
    owners: dict[str, list[str]] = {}
    for config, part in zip(defaults, parts, strict=True):
        for field in dataclasses.fields(config):
            owners.setdefault(field.name, []).append(part)
    added: set[str] = set()
    for config, part in zip(defaults, parts, strict=True):
        hints = typing.get_type_hints(type(config))
        for title, docs in field_groups(type(config)).items():
            group = parser.add_argument_group(title)
            for name, doc in docs.items():
                flag, shared = name, len(owners[name]) > 1
                if shared and name not in added:
                    both = " and ".join(_flag(f"{owner}_{name}") for owner in owners[name])
                    _add_flag(group, name, hints[name], f"Sets {both}. Default: theirs", None)
                    added.add(name)
                if shared:
                    flag = f"{part}_{name}"
                _add_flag(group, flag, hints[name], doc, getattr(config, name))
                added.add(flag)
    for alias, name in ALIASES.items():
        if name in added and alias not in added:
            hint = next(h for c in defaults if (h := typing.get_type_hints(type(c)).get(name)))
            read = _cents if alias.endswith("_usd") else _reader(hint)
            parser.add_argument(_flag(alias), dest=name, type=read, help=argparse.SUPPRESS)
    return added


def _add_flag(
    group: "argparse._ArgumentGroup", name: str, hint: Any, doc: str, default: object
) -> None:
    known = "default:" in doc.lower() or default == ""
    text = doc if known else f"{doc.rstrip('.')} (default: {_shown(default)})"
    text = text.replace("%", "%%")
    if _plain_type(hint) is bool:
        action = argparse.BooleanOptionalAction
        group.add_argument(_flag(name), action=action, default=argparse.SUPPRESS, help=text)
    else:
        group.add_argument(_flag(name), type=_reader(hint), metavar=_metavar(name, hint), help=text)


def _shown(value: object) -> str:
    """A default as one would type it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


UNITS = ("steps", "minutes", "tokens", "rows", "shards", "prompts", "cents", "dir", "gb")


def _metavar(name: str, hint: Any) -> str:
    """The choices, or the unit in a field's name, or what kind of value it takes."""
    choices = _choices(hint)
    if choices:
        return "{" + ",".join(map(str, choices)) + "}"
    kind = _plain_type(hint)
    unit = next((word for word in reversed(name.split("_")) if word in UNITS), None)
    if kind is str:
        return "DIR" if unit == "dir" else "TEXT"
    return unit.upper() if unit else "N" if kind is int else "X"


def _reader(hint: Any) -> Callable[[str], Any]:
    """Reads a flag's value; "none" lifts what a field that may be None limits."""
    kind = _plain_type(hint)
    if not _may_be_none(hint):
        return kind

    def read(text: str) -> Any:
        return None if text.lower() == "none" else kind(text)

    read.__name__ = kind.__name__  # argparse names it in "invalid int value"
    return read


def _cents(text: str) -> int:
    """Dollars, as an older flag took them."""
    return round(100 * float(text))


def _may_be_none(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


def _plain_type(hint: Any) -> type:
    """`int | None` -> int; `Literal["1", "2"]` -> str."""
    if _may_be_none(hint):
        return next(kind for kind in typing.get_args(hint) if kind is not type(None))
    choices = _choices(hint)
    return type(choices[0]) if choices else hint


def _choices(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def _override(config: Any, part: str, given: Mapping[str, Any]) -> Any:
    names = [field.name for field in dataclasses.fields(config)]
    own = {name: given[name] for name in names if name in given}
    own |= {name: given[f"{part}_{name}"] for name in names if f"{part}_{name}" in given}
    return dataclasses.replace(config, **own)


def _unknown_flag(flag: str, fields: set[str]) -> str:
    flags = [_flag(name) for name in (*fields, "recipe", "json", "print_config")]
    close = difflib.get_close_matches(flag.split("=")[0], flags, n=1)
    return "unknown flag; " + (f"did you mean {close[0]}?" if close else "see --help")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def field_groups(config_class: type) -> dict[str, dict[str, str]]:
    """The fields of a config dataclass with their docstrings, on one line each, by the comment
    line that stands above them; before the first such comment, by the class's docstring."""
    source = textwrap.dedent(inspect.getsource(config_class))
    body = typing.cast(ast.ClassDef, ast.parse(source).body[0]).body
    titles = {
        number: line.strip("# ")
        for number, line in enumerate(source.splitlines(), start=1)
        if line.startswith("    # ")
    }
    title = (inspect.getdoc(config_class) or config_class.__name__).splitlines()[0].rstrip(".")
    groups: dict[str, dict[str, str]] = {}
    for field, below in zip(body, [*body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        title = next((titles[n] for n in sorted(titles, reverse=True) if n < field.lineno), title)
        doc = ""
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            doc = " ".join(str(below.value.value).split())
        groups.setdefault(title, {})[field.target.id] = doc
    return groups
