"""An HTML page of results: a verdict, facts, and sections of figures, a table and a note.

Every report of the jobs is such a page, rendered from the one template `page.html`. It holds all
that it shows, so that it opens from a disk without a network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

_TEMPLATES = Environment(
    loader=PackageLoader("ray_jobs.results", ""),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


@dataclass(frozen=True)
class Table:
    """Plain text; every row has as many cells as the header."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """Part of a page, shown in the order of these fields; what is empty is left out."""

    heading: str = ""
    figures: Sequence[str] = ()
    """<svg> elements (see `ray_jobs.results.figures.svg`): the only HTML that is not escaped."""

    table: Table | None = None
    note: str = ""
    """Small print: how to read the section, what it does not say."""


def render_page(
    title: str, verdict: Sequence[str], facts: Mapping[str, str], sections: Sequence[Section]
) -> str:
    """The HTML document; the same arguments give the same bytes.

    Args:
        title: heading of the page, and its name in the browser.
        verdict: what came out, in a few sentences, each a paragraph.
        facts: what the run was made of, by name; the first table.
    """
    template = _TEMPLATES.get_template("page.html")
    return template.render(title=title, verdict=verdict, facts=facts.items(), sections=sections)
