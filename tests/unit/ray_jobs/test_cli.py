import subprocess
import sys
from dataclasses import dataclass

import pytest

from data.errors import ConfigError
from ray_jobs.cli import field_groups, parse_recipe


@dataclass(frozen=True)
class Left:
    """The left part.

    And more about it.
    """

    model: str = "m"
    """The model,
    by name."""

    steps: int | None = None
    """How many steps."""

    # How it is done
    fast: bool = False
    rate: float = 0.1

    def __post_init__(self):
        if self.rate <= 0:
            raise ConfigError("rate", "must be positive")


@dataclass(frozen=True)
class Right:
    model: str = "m"
    window: int = 2


RECIPES = {"demo": lambda: (Left(), Right()), "full": lambda: (Left(steps=7), Right(window=5))}


def parse(*argv):
    return parse_recipe(argv, "prog", RECIPES, ("left", "right"))


def test_recipe_then_flags():
    (left, right), as_json = parse("--recipe", "full", "--rate", "0.5", "--fast", "--json")
    assert (left.steps, left.rate, left.fast, right.window, as_json) == (7, 0.5, True, 5, True)


def test_a_shared_field_is_said_once():
    (left, right), _ = parse("--model", "x")
    assert left.model == right.model == "x"


def test_a_shared_field_can_be_said_of_one_part():
    assert [part.model for part in parse("--right-model", "y")[0]] == ["m", "y"]
    assert [part.model for part in parse("--model", "x", "--left-model", "y")[0]] == ["y", "x"]
    with pytest.raises(ConfigError, match="--left-steps: unknown flag"):
        parse("--left-steps", "3")  # --steps can mean one part only


def test_first_recipe_is_the_default_and_flags_can_say_no():
    (left, _), as_json = parse("--no-fast")
    assert left == Left() and not as_json


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--recipe", "nope"], "no recipe 'nope'; there are demo, full"),
        (["--modle", "x"], "did you mean --model"),
        (["--recpe", "demo"], "did you mean --recipe"),
        (["--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["--rate", "-1"], "rate: must be positive"),
    ],
)
def test_mistakes_are_one_line(argv, message):
    with pytest.raises(ConfigError) as caught:
        parse(*argv)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_help_comes_from_the_docstrings_under_the_fields():
    assert field_groups(Left) == {
        "The left part": {"model": "The model, by name.", "steps": "How many steps."},
        "How it is done": {"fast": "", "rate": ""},
    }


@pytest.mark.parametrize(
    ("body", "code", "line"),
    [
        ("raise InputError('no such\\nfile')", 2, "error: no such file\n"),
        ("raise RefusedError('too dear')", 3, "error: too dear\n"),
        ("raise JobError('odd')", 1, "error: odd\n"),
        ("raise KeyboardInterrupt", 130, "interrupted: "),
        ("pass", 0, ""),
    ],
)
def test_exit_codes_without_traceback(body, code, line):
    script = (
        "from data.command_line import run_main\nfrom data.errors import *\n"
        f"def main(argv):\n    {body}\nrun_main(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stderr.startswith(line) and done.stderr.count("\n") <= 1
