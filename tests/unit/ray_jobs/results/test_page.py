"""The page that every report is rendered from."""

from ray_jobs.results.page import Section, Table, render_page

HOSTILE = "<script>&"


def test_all_text_is_escaped_and_figures_are_not():
    section = Section(HOSTILE, ["<svg></svg>"], Table([HOSTILE], [[HOSTILE]]), HOSTILE)
    page = render_page(HOSTILE, [HOSTILE], {HOSTILE: HOSTILE}, [section])
    assert "<script>" not in page and page.count("&lt;script&gt;&amp;") == 9
    assert "<svg></svg>" in page


def test_what_a_section_lacks_leaves_nothing():
    page = render_page("Title", [], {}, [Section(note="small print")])
    body = page.partition("<body>")[2]
    assert "<h2>" not in body and "<th>" not in body
    assert body.count("<p") == 1 and "small print" in body
