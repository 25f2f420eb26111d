"""Draws rooms.svg, the rooms of the product, from the import contracts in pyproject.toml.

    python docs/draw_rooms.py

A panel for each package with layers, a row for each layer. What the picture shows is therefore
what import-linter enforces; a test compares the file with what this draws.
"""

import tomllib
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "rooms.svg"
WIDTH, MARGIN, GAP = 1180, 20, 24
ROW, BOX, TITLE = 34, 26, 30
STYLE = """
text { font: 13px sans-serif; fill: #1f2933; text-anchor: middle }
.title { font-weight: bold; font-size: 15px; text-anchor: start }
.note { fill: #52606d; text-anchor: start }
rect { stroke: #9fb3c8; fill: #ffffff; rx: 4px }
.panel { fill: #f5f7fa; stroke: #cbd2d9 }
.folder { fill: #d9e8f6 }
.protected { stroke: #c05621; stroke-dasharray: 5 3 }
"""


def draw() -> str:
    """The picture as SVG."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    contracts = {contract["id"]: contract for contract in linter["contracts"]}
    panels = {c["containers"][0]: c["layers"] for c in contracts.values() if "containers" in c}
    shapes, top = [], MARGIN
    for layer in contracts["product"]["layers"]:
        packages = _names(layer)
        here = [name for name in panels if name.split(".")[0] in packages]
        width = (WIDTH - 2 * MARGIN - GAP * (len(here) - 1)) / len(here)
        for column, name in enumerate(here):
            left = MARGIN + column * (width + GAP)
            shapes += _panel(name, panels[name], contracts["http"], left, top, width)
        top += TITLE + ROW * max(len(panels[name]) for name in here) + GAP
    shapes += _notes(contracts, top)
    height = top + 3 * 20
    frame = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    background = f'<rect width="{WIDTH}" height="{height}" stroke="none"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {frame}>\n<style>{STYLE}</style>'
    return "\n".join([head, background, *shapes, "</svg>"]) + "\n"


def _names(layer: str) -> list[str]:
    """Of the modules beside each other in a layer."""
    return [name.strip() for name in layer.split("|")]


def _panel(
    package: str,
    layers: list[str],
    protected: dict[str, Any],
    left: float,
    top: float,
    width: float,
) -> list[str]:
    height = TITLE + ROW * len(layers)
    shapes = [
        f'<rect class="panel" x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}"/>',
        f'<text class="title" x="{left + 10:g}" y="{top + 20:g}">{escape(package)}</text>',
    ]
    for row, layer in enumerate(layers):
        names = _names(layer)
        box = (width - 10) / len(names)
        for column, name in enumerate(names):
            module = f"{package}.{name}"
            folder = (ROOT / module.replace(".", "/")).is_dir()
            classes = "folder" if folder else "file"
            classes += " protected" if module in protected["protected_modules"] else ""
            x, y = left + 10 + column * box, top + TITLE + row * ROW
            shapes.append(
                f'<rect class="{classes}" x="{x:g}" y="{y:g}" width="{box - 10:g}" height="{BOX}"/>'
            )
            shapes.append(
                f'<text x="{x + (box - 10) / 2:g}" y="{y + 18:g}">{escape(name)}'
                f"{'/' if folder else ''}</text>"
            )
    return shapes


def _notes(contracts: dict[str, Any], top: float) -> list[str]:
    allowed = ", ".join(contracts["http"]["allowed_importers"])
    lines = (
        "A room imports what is below it in its panel, never what is above or beside it.",
        f"{contracts['product']['name']}. Dashed: imported by {allowed} alone.",
    )
    return [
        f'<text class="note" x="{MARGIN}" y="{top + 14 + 20 * number:g}">{escape(line)}</text>'
        for number, line in enumerate(lines)
    ]


if __name__ == "__main__":
    PICTURE.write_text(draw())
