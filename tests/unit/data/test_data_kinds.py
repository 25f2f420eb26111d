"""The kinds of files and of span lists that corpora have, each read as the same document."""

import gzip
import json
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.documents import Span, read_documents
from data.errors import DataError
from data.files import check_local_files, sha256_of

TEXT = "Ask Ann Lee today."
ROW = {"text": TEXT, "spans": [[4, 11, "PERSON"]]}
PERSON = Span(4, 11, "PERSON")
LINE = json.dumps(ROW).encode() + b"\n"
INPUTS = Path(__file__).parents[4] / "shared/inputs/data"


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bom.jsonl", b"\xef\xbb\xbf" + LINE),
        ("crlf.jsonl", LINE.replace(b"\n", b"\r\n")),
        ("blank-first.jsonl", b"\n \n" + LINE),
        ("packed.jsonl.gz", gzip.compress(LINE)),
        ("named-wrongly.jsonl", gzip.compress(LINE)),
        ("packed.jsonl.zst", zstd(LINE)),
        ("array.json", json.dumps([ROW], indent=1).encode()),
        ("table.csv", b'text,spans\n"Ask Ann Lee today.","[[4,11,""PERSON""]]"\n'),
        ("tags.conll", b"-DOCSTART- O\n\nAsk O\nAnn B-PERSON\nLee I-PERSON\ntoday. O\n"),
        ("tags-of-four.txt", b"Ask V x O\nAnn N x B-PERSON\nLee N x I-PERSON\ntoday. N x O\n\n"),
    ],
)
def test_kinds_of_files_are_told_by_their_content(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    (document,) = read_documents(str(tmp_path / name))
    assert (document.text, document.spans) == (TEXT, (PERSON,))


@pytest.mark.parametrize(
    "spans",
    [
        [{"start": 4, "end": 11, "label": "PERSON"}],
        [{"start": 4.0, "end": 11.0, "label": "PERSON", "value": "Ann Lee"}],
        [{"entity_type": "PERSON", "start": 4, "end": 11}],
        {"start": [4], "end": [11], "label": ["PERSON"]},
        [["4", "11", "PERSON"]],
        "[{'start': 4, 'end': 11, 'text': 'Ann Lee', 'label': 'PERSON'}]",
        '[[4, 11, "PERSON"]]',
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_forms_of_span_lists(tmp_path: Path, spans: object, kind: str) -> None:
    row = {"text": TEXT, "spans": spans}
    path = tmp_path / "a.PARQUET"
    if kind == "jsonl":
        path.write_text(json.dumps(row))
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    assert read_documents(str(path))[0].spans == (PERSON,)


@pytest.mark.parametrize(
    "row",
    [
        {"full_text": TEXT, "spans": [{"entity_type": "PERSON", "entity_value": "Ann Lee"}
                                      | {"start_position": 4, "end_position": 11}]},
        {"text": TEXT, "label": [{"category": "PERSON", "start": 4, "end": 11}]},
        {"tokens": ["Ask", "Ann", "Lee", "today."], "ner_tags": ["O", "B-PERSON", "I-PERSON", "O"]},
        {"tokens": ["Ask", "Ann", "Lee", "today."], "ner_tags": [0, 1, 2, 0],
         "tag_names": ["O", "B-PERSON", "I-PERSON"]},
    ],
)  # fmt: skip
def test_rows_of_other_tools(tmp_path: Path, row: dict[str, object]) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    (document,) = read_documents(str(tmp_path / "a.jsonl"))
    assert (document.text, document.spans) == (TEXT, (PERSON,))


def test_a_data_set_of_the_hub_brings_the_names_of_its_tags(tmp_path: Path) -> None:
    features = {"ner_tags": {"feature": {"names": ["O", "B-PERSON", "I-PERSON"]}}}
    table = pa.Table.from_pylist([{"tokens": TEXT.split(), "ner_tags": [0, 1, 2, 0]}])
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    assert read_documents(str(tmp_path / "a.parquet"))[0].spans == (PERSON,)


def test_a_folder_is_all_its_files_in_order(tmp_path: Path) -> None:
    for number in (1, 0):
        row = {"text": f"{number} {TEXT}", "spans": []}
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / f"train-{number:05}.parquet")
    (tmp_path / ".hidden").write_text("nothing")
    assert [d.text[0] for d in read_documents(str(tmp_path))] == ["0", "1"]
    check_local_files(str(tmp_path))
    before = sha256_of(str(tmp_path))
    (tmp_path / "train-00001.parquet").write_bytes((tmp_path / "train-00000.parquet").read_bytes())
    assert sha256_of(str(tmp_path)) != before
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no file in this folder"):
        read_documents(str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            {"text": "😀 " + TEXT, "spans": [{"start": 7, "end": 14, "label": "P"}
                                            | {"text": "Ann Lee"}]},
            "text[7:14] is 'nn Lee ', but its span says 'Ann Lee': UTF-16 offsets?",
        ),
        (
            {"text": "Zoë: Ann", "spans": [{"start": 6, "end": 9, "label": "P", "value": "Ann"}]},
            "is outside",
        ),
        (
            {"text": "Zoë: Ann Lee", "spans": [{"start": 6, "end": 9, "label": "P"}
                                               | {"value": "Ann"}]},
            "text[6:9] is 'nn ', but its span says 'Ann': offsets in bytes?",
        ),
        (
            {"source_text": TEXT, "privacy_mask": [{"label": "GIVENNAME", "start": 3, "end": 6}
                                                   | {"value": "Ann"}]},
            "text[3:6] is ' An', but its span says 'Ann', which begins at 4",
        ),
        (
            {"text": TEXT, "spans": [{"start": 4, "end": 7, "label": "P", "value": "Bob"}]},
            "'Bob', which is nowhere in the text",
        ),
    ],
)  # fmt: skip
def test_a_span_that_contradicts_its_text_is_refused_with_a_guess(
    tmp_path: Path, row: dict[str, object], problem: str
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError) as caught:
        read_documents(str(tmp_path / "a.jsonl"))
    assert problem in str(caught.value) and "line 1" in str(caught.value)


def test_what_was_tidied_is_counted_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {"text": TEXT, "spans": [[3, 12, "PERSON"]]},
        {"text": TEXT, "spans": [[4, 11, "PERSON"], [4, 11, "PERSON"], [4, 7, "PERSON"]]},
        {"text": TEXT, "spans": [[5, 11, "PERSON"]]},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with caplog.at_level(logging.WARNING):
        documents = read_documents(str(tmp_path / "a.jsonl"))
    assert [d.spans for d in documents] == [(PERSON,), (PERSON,), (Span(5, 11, "PERSON"),)]
    (message,) = [record.getMessage() for record in caplog.records]
    assert "1 spans with blanks at their edges, trimmed" in message
    assert "1 spans given twice, dropped; 1 spans inside another, dropped" in message
    assert "1 spans that begin inside a word" in message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("text".encode("utf-16"), "line 1: UTF-16; write the file as UTF-8"),
        (b"text,spans\na,b,c\n", "line 2: other columns than the header names"),
        (b"Ask O\nAnn\n", "line 2: a token without a tag"),
        (b'{"tokens": ["a"], "ner_tags": []}', "not two lists of one length"),
        (b'{"tokens": ["a"], "ner_tags": [3]}', "tag 3 has no name"),
        (b"\x1f\x8b\x08garbage", "damaged gzip file"),
    ],
)
def test_damage_of_each_kind_is_one_line(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "a.data").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_documents(str(tmp_path / "a.data"))
    assert problem in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.skipif(not INPUTS.is_dir(), reason="the inputs beside the repository are not there")
@pytest.mark.parametrize("path", sorted(INPUTS.glob("[df]*")) or [None], ids=lambda p: p and p.name)
def test_each_input_is_read_right_or_refused_in_one_line(path: Path) -> None:
    refused = ("d08", "d18", "d20", "d30", "d31", "d36", "f04")
    if path.name.startswith(refused):
        with pytest.raises(DataError) as caught:
            read_documents(str(path))
        assert "\n" not in str(caught.value)
        return
    marked = {d.text[s.start : s.end] for d in read_documents(str(path)) for s in d.spans}
    if path.name.startswith("d") and not path.name.startswith(("d12", "d13", "d19")):
        assert marked == {"Ann Lee"}
    assert not any(value != value.strip() for value in marked)
