"""What the documents name is there, and the picture is what its script draws."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "docs/architecture.md", "benchmarks/RESULTS.md")
PATH = r"`((?:autoscaler|ray_jobs|data|tests|cluster|docs|benchmarks)/[\w./]*)`"


def test_the_picture_of_the_rooms_is_drawn_from_the_contracts_of_today() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "draw_rooms.py"))
    drawn = (ROOT / "docs" / "rooms.svg").read_text()
    assert script["draw"]() == drawn, "run: python docs/draw_rooms.py"


def test_files_that_documents_name_exist() -> None:
    for document in DOCUMENTS:
        for path in re.findall(PATH, (ROOT / document).read_text()):
            assert (ROOT / path).exists(), f"{document} names {path}"


def test_functions_that_the_architecture_names_are_in_their_files() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for path, names in re.findall(PATH + r": ((?:`[\w.]+`(?:, | and )?)+)", text):
        source = (ROOT / path).read_text()
        for name in re.findall(r"`([\w.]+)`", names):
            for part in name.split("."):
                found = re.search(rf"^\s*(?:def|class) {part}\b", source, re.MULTILINE)
                assert found, f"docs/architecture.md: {path} has no {name}"
