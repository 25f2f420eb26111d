"""Users' own labelled text: every form that is read, and one line for each mistake."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.documents import Document, Span, iter_documents, read_documents, write_documents
from data.errors import DataError

TEXT = "Ann Lee lives in Bath."
PERSON = Span(0, 7, "PERSON")


def write_rows(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("field", ["spans", "labels"])
@pytest.mark.parametrize("span", [{"start": 0, "end": 7, "label": "PERSON"}, [0, 7, "PERSON"]])
def test_jsonl_with_own_field_names(tmp_path: Path, field: str, span: object) -> None:
    uri = write_rows(tmp_path / "a.jsonl", {"text": TEXT, field: [span], "language": "en"})
    assert read_documents(uri) == [Document(TEXT, (PERSON,), "en", "user")]


def test_file_uri_without_language_and_with_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "my data.jsonl"
    path.write_text('\n{"text": "x", "spans": []}\n\n')
    assert read_documents(path.as_uri()) == [Document("x", (), "", "user")]


def test_offsets_count_characters_and_lines_end_at_newline_only(tmp_path: Path) -> None:
    text = "\U0001f600\u2028Ann\u0085"
    uri = tmp_path / "a.jsonl"
    uri.write_text(json.dumps({"text": text, "spans": [[2, 5, "PERSON"]]}, ensure_ascii=False))
    (document,) = read_documents(str(uri))
    assert text[document.spans[0].start : document.spans[0].end] == "Ann"


def test_spans_come_sorted(tmp_path: Path) -> None:
    uri = write_rows(tmp_path / "a.jsonl", {"text": TEXT, "spans": [[17, 21, "X"], [0, 7, "Y"]]})
    assert [span.label for span in read_documents(uri)[0].spans] == ["Y", "X"]


def test_parquet(tmp_path: Path) -> None:
    spans = [{"start": 0, "end": 7, "label": "PERSON"}]
    table = pa.Table.from_pylist([{"text": TEXT, "spans": spans}, {"text": "none", "spans": []}])
    pq.write_table(table, tmp_path / "a.parquet")
    documents = read_documents(str(tmp_path / "a.parquet"))
    assert [document.spans for document in documents] == [(PERSON,), ()]


AI4PRIVACY_TEXT = "Hi Ann-Marie O'Neil, 12 Elm Road, Bath. Born 1/2/1990 in Leeds, pw x1, b@c.de"


def labelled(label: str, piece: str) -> dict[str, object]:
    start = AI4PRIVACY_TEXT.index(piece)
    return {"value": piece, "start": start, "end": start + len(piece), "label": label}


AI4PRIVACY_MASK = [
    labelled("GIVENNAME", "Ann-Marie"),
    labelled("SURNAME", "O'Neil"),
    labelled("BUILDINGNUM", "12"),
    labelled("STREET", "Elm Road"),
    labelled("CITY", "Bath"),
    labelled("DATEOFBIRTH", "1/2/1990"),
    labelled("CITY", "Leeds"),
    labelled("PASSWORD", "x1"),
    labelled("EMAIL", "b@c.de"),
]
AI4PRIVACY_EXPECTED = [
    ("PERSON", "Ann-Marie O'Neil"),
    ("ADDRESS", "12 Elm Road, Bath"),
    ("DATE_OF_BIRTH", "1/2/1990"),
    ("EMAIL", "b@c.de"),
]


def ai4privacy_rows() -> list[dict[str, object]]:
    triples = [[m["start"], m["end"], f"{m['label']}_1"] for m in AI4PRIVACY_MASK]
    triples.append([0, 3, "O"])
    return [
        {"source_text": AI4PRIVACY_TEXT, "privacy_mask": AI4PRIVACY_MASK, "language": "en"},
        {"source_text": AI4PRIVACY_TEXT, "privacy_mask": json.dumps(AI4PRIVACY_MASK)},
        {"unmasked_text": AI4PRIVACY_TEXT, "span_labels": json.dumps(triples), "locale": "en_GB"},
        {"source_text": AI4PRIVACY_TEXT, "span_labels": str(triples), "language": "English"},
        {
            "source_text": AI4PRIVACY_TEXT,
            "privacy_mask": {"[GIVENNAME_1]": "Ann-Marie"},
            "span_labels": triples,
        },
    ]


@pytest.mark.parametrize("row", ai4privacy_rows())
def test_ai4privacy_names_are_mapped_and_pieces_merged(
    tmp_path: Path, row: dict[str, object]
) -> None:
    (document,) = read_documents(write_rows(tmp_path / "a.jsonl", row))
    found = [(span.label, document.text[span.start : span.end]) for span in document.spans]
    assert found == AI4PRIVACY_EXPECTED
    assert document.language == ("en" if "language" in row or "locale" in row else "")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("TELEPHONENUM", "PHONE"),
        ("TEL", "PHONE"),
        ("CREDITCARDNUMBER", "CREDIT_CARD"),
        ("DOB", "DATE_OF_BIRTH"),
        ("SOCIALNUM", "NATIONAL_ID"),
        ("SOCIALNUMBER", "NATIONAL_ID"),
        ("IDCARDNUM", "NATIONAL_ID"),
        ("IPV4", "IP_ADDRESS"),
        ("IPV6", "IP_ADDRESS"),
        ("LASTNAME2", "PERSON"),
        ("USERNAME", "USERNAME"),
        ("IBAN", "IBAN"),
    ],
)
def test_ai4privacy_label_names(tmp_path: Path, theirs: str, ours: str) -> None:
    row = {"source_text": "abc", "privacy_mask": [{"start": 0, "end": 3, "label": theirs}]}
    (document,) = read_documents(write_rows(tmp_path / "a.jsonl", row))
    assert document.spans == (Span(0, 3, ours),)


@pytest.mark.parametrize(
    ("line", "problem", "mend"),
    [
        ("{broken", "line 2: not JSON", "one JSON object a line"),
        ('"text"', "line 2: not a JSON object", "one JSON object a line"),
        ('{"spans": []}', "line 2: no field 'text'", "a row needs text and spans"),
        ('{"text": "abc"}', "line 2: no field 'spans'", "a row needs text and spans"),
        ('{"source_text": "abc"}', "line 2: no field 'privacy_mask'", "privacy_mask"),
        ('{"source_text": "a", "privacy_mask": "?"}', "labels cannot be read", "'?'"),
        ('{"text": 3, "spans": []}', "line 2: text is int", "give a string"),
        ('{"text": "\\ud800", "spans": []}', "half a surrogate", "UTF-8"),
        ('{"text": "abc", "spans": 3}', "spans is int", "[] for none"),
        ('{"text": "a  c", "spans": [[1, 3, "X"]]}', "X [1, 3) is only blanks", "blanks"),
        ('{"text": "abc", "spans": [[0, 1]]}', "span [0, 1] is neither", '"label": "PERSON"'),
        ('{"text": "abc", "spans": [[0, 1, ""]]}', "is neither", '"label": "PERSON"'),
        ('{"text": "abc", "spans": [[false, 1, "X"]]}', "[false, 1, ", '"label": "PERSON"'),
        ('{"source_text": "a", "privacy_mask": [[0, true, "X"]]}', "[0, True, 'X'] has no", "end"),
        ('{"text": "abc", "spans": [[0, 4, "X"]]}', "X [0, 4) is outside", "not bytes"),
        ('{"text": "abc", "spans": [[-1, 2, "X"]]}', "X [-1, 2) is outside", "from 0"),
        ('{"text": "abc", "spans": [[1, 1, "X"]]}', "X [1, 1) is empty", "must be above start"),
        ('{"text": "abc", "spans": [[2, 1, "X"]]}', "X [2, 1) is empty", "must be above start"),
        (
            '{"text": "abc", "spans": [[0, 2, "X"], [1, 3, "Y"]]}',
            "Y [1, 3) overlaps X [0, 2)",
            "keep one of them",
        ),
    ],
)
def test_each_mistake_is_one_line_with_file_line_and_mend(
    tmp_path: Path, line: str, problem: str, mend: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine", "spans": []}\n' + line + "\n")
    with pytest.raises(DataError) as caught:
        read_documents(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}, line 2: ")
    assert problem in message and mend in message and "\n" not in message


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "caf\xe9", "spans": []}\n')
    with pytest.raises(
        DataError, match="line 1: invalid continuation byte; write the file as UTF-8"
    ):
        read_documents(str(path))


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone.jsonl: no such file; check the path"):
        read_documents(str(tmp_path / "gone.jsonl"))
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="empty.jsonl: no documents in it"):
        read_documents(str(tmp_path / "empty.jsonl"))


def test_parquet_mistakes_name_the_row(tmp_path: Path) -> None:
    (tmp_path / "no.parquet").write_text("text")
    with pytest.raises(DataError, match="no.parquet: not a Parquet file"):
        read_documents(str(tmp_path / "no.parquet"))
    spans = [{"start": 0, "end": 9, "label": "X"}]
    rows = [{"text": "abc", "spans": []}, {"text": "abc", "spans": spans}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="a.parquet, row 2: span X"):
        read_documents(str(tmp_path / "a.parquet"))


def test_a_damaged_parquet_page_is_named_by_the_rows_before_it(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = [f"{n} {TEXT}" for n in range(5000)]
    table = pa.table({"text": texts, "spans": [[]] * len(texts)})
    pq.write_table(table, path, row_group_size=1000, compression="snappy")
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    content[half : half + 64] = bytes(64)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet, behind row \d+: damaged \(") as caught:
        read_documents(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    uri = write_rows(tmp_path / "a.jsonl", {"text": TEXT, "spans": []})
    tmp_path.chmod(0)
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)  # root may read everything
    try:
        with pytest.raises(
            DataError, match=r"a\.jsonl: Permission denied; give a file you may read"
        ):
            read_documents(uri)
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o700)


def test_a_line_nested_without_end_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("[" * 100_000 + "\n")
    with pytest.raises(DataError, match="line 1: not JSON"):
        read_documents(str(tmp_path / "a.jsonl"))


def test_iter_documents_reads_no_further_than_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine", "spans": []}\n{broken\n')
    assert next(iter_documents(str(path))).text == "fine"


@st.composite
def documents(draw: st.DrawFn) -> Document:
    text = draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
    spans = [Span(a, b, "PERSON") for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    spans = [s for s in spans if text[s.start : s.end].strip() == text[s.start : s.end]]
    return Document(text, tuple(spans), draw(st.sampled_from(["en", ""])), "user")


@settings(deadline=None)
@given(st.lists(documents(), min_size=1, max_size=5))
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, written: list[Document]
) -> None:
    path = tmp_path_factory.mktemp("documents") / "a.jsonl"
    first = write_documents(written, path)
    assert read_documents(str(path)) == written
    assert write_documents(written, path) == first
