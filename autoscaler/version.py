"""Which code this is: a laptop and the nodes of its cluster must say the same."""

import hashlib
import platform
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def describe() -> str:
    """`raylambda 0.1.0 (code 1f2e3d4c), Ray 2.60.0, Python 3.11.7`.

    The code's part is of the sources as they are, since nodes get them without a commit.
    """
    try:
        ray = version("ray")
    except PackageNotFoundError:
        ray = "not installed"
    return (
        f"raylambda {_release()} (code {code_digest()}), Ray {ray}, "
        f"Python {platform.python_version()}"
    )


def code_digest() -> str:
    """Eight hex digits of the sources of this package."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(_PACKAGE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


def _release() -> str:
    """From the project file beside the package, which nodes have; else of what is installed."""
    try:
        project = tomllib.loads((_PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
        return str(project["project"]["version"])
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return version("raylambda")
