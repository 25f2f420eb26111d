"""The size of files and functions, and the first words of each package."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for room in ("autoscaler", "ray_jobs", "data")
    for path in sorted((ROOT / room).rglob("*.py"))
}
PACKAGES = [path for path in FILES if path.endswith("__init__.py")]
MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 60
SMALL_FILE_LINES, MAX_SMALL_FILES = 60, 15


def lines(path: str) -> int:
    return len(FILES[path].splitlines())


def test_no_file_is_too_long() -> None:
    assert [path for path in FILES if lines(path) > MAX_FILE_LINES] == []


def test_few_files_are_so_small_that_their_reader_opens_another() -> None:
    named = [path for path in FILES if not path.endswith(("__init__.py", "__main__.py"))]
    small = [path for path in named if lines(path) < SMALL_FILE_LINES]
    assert len(small) <= MAX_SMALL_FILES, small


def test_no_function_is_too_long() -> None:
    long = [
        f"{path}:{node.lineno} {node.name}"
        for path, source in FILES.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert long == []


@pytest.mark.parametrize("path", PACKAGES)
def test_a_package_says_in_a_few_lines_what_it_is_for(path: str) -> None:
    docstring = ast.get_docstring(ast.parse(FILES[path])) or ""
    assert 3 <= len(docstring.splitlines()) <= 10, "what the room is for, where to start"
