"""A corpus with other labels, unlabelled types and ignored stretches is scored fairly."""

import json
from pathlib import Path

import pytest

from data.documents import Document, Span, read_documents, write_documents
from data.errors import DataError
from ray_jobs.pii import evaluate
from ray_jobs.pii.corpus import Corpus, errors, parse_mapping
from ray_jobs.pii.spans import PIISpan
from tests.pii_run import Run

TYPES = ("PERSON", "EMAIL", "PHONE")


@pytest.fixture(scope="module")
def run(pii_run: Run) -> Run:
    return pii_run


def test_the_mapping_of_labels() -> None:
    assert parse_mapping("PER=PERSON, LOC=") == {"PER": "PERSON", "LOC": ""}
    assert parse_mapping("") == {}
    for wrong in ("PER", "=PERSON", "PER=PERSON,x"):
        with pytest.raises(DataError, match="give theirs=ours"):
            parse_mapping(wrong)


def test_labels_that_the_detector_does_not_know_are_refused_with_both_sides() -> None:
    documents = [Document("Ann in Bath", (Span(0, 3, "PER"), Span(7, 11, "LOC")), "en", "user")]
    with pytest.raises(DataError) as caught:
        Corpus.of(documents, {}, TYPES)
    message = str(caught.value)
    assert "no type LOC, PER; it has EMAIL, PERSON, PHONE" in message
    assert "--labels LOC=TYPE,PER=TYPE" in message
    with pytest.raises(DataError, match="no type PER"):
        Corpus.of(documents, {"PER": "HUMAN", "LOC": ""}, TYPES)


def test_what_the_corpus_does_not_label_or_ignores_counts_neither_way() -> None:
    text = "Ann of Bath Ltd, ann@b.example, Bob"
    spans = (Span(0, 3, "PER"), Span(7, 11, "LOC"), Span(32, 35, "PER"))
    document = Document(text, spans, "en", "user", (Span(12, 15, "X"),))
    corpus = Corpus.of([document], {"PER": "PERSON", "LOC": ""}, TYPES)
    assert corpus.types == {"PERSON"}
    assert corpus.documents[0].spans == (Span(0, 3, "PERSON"), Span(32, 35, "PERSON"))
    found = [
        PIISpan(0, 3, "PERSON", 0.9),
        PIISpan(7, 11, "PERSON", 0.9),  # on a place, which is ignored
        PIISpan(12, 15, "PERSON", 0.9),  # on what the corpus ignores
        PIISpan(17, 30, "EMAIL", 0.9),  # of a type that the corpus does not label
        PIISpan(4, 6, "PERSON", 0.9),  # wrong
    ]
    counted = corpus.counted([found])[0]
    assert [(s.start, s.end) for s in counted] == [(0, 3), (4, 6)]


def test_errors_are_told_with_the_text_around_them() -> None:
    text = "Ann Lee met Bob and Carl at 10."
    spans = (Span(0, 7, "PERSON"), Span(12, 15, "PERSON"), Span(20, 24, "PERSON"))
    document = Document(text, spans, "en", "user")
    found = [
        PIISpan(0, 3, "PERSON", 0.9),
        PIISpan(12, 15, "EMAIL", 0.9),
        PIISpan(28, 30, "PHONE", 0.9),
    ]
    told = list(errors([document], [found]))
    assert [(e["kind"], e["start"]) for e in told] == [
        ("border", 0),
        ("type", 12),
        ("missed", 20),
        ("wrong", 28),
    ]
    assert told[0]["true"] == {"label": "PERSON", "text": "Ann Lee"}
    assert told[0]["found"] == [{"label": "PERSON", "text": "Ann"}]
    assert told[2]["before"].endswith("Bob and ") and told[2]["after"] == " at 10."
    exact = [PIISpan(s.start, s.end, s.label, 1.0) for s in spans]
    assert list(errors([document], [exact])) == []


def test_ignored_spans_are_read_and_written(tmp_path: Path) -> None:
    row = {"text": "Ann of Bath", "spans": [[0, 3, "PERSON"]], "ignore": [[7, 11, "LOC"]]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    documents = read_documents(str(tmp_path / "a.jsonl"))
    assert documents[0].ignored == (Span(7, 11, "LOC"),)
    write_documents(documents, tmp_path / "b.jsonl")
    assert read_documents(str(tmp_path / "b.jsonl")) == documents


def test_the_command_scores_both_probes_in_one_pass(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"text": "rain table Alice river", "spans": [[11, 16, "PER"]]},
        {"text": "music Bruno cloud Carla", "spans": [[6, 11, "PER"], [18, 23, "NICK"]]},
        {"text": "garden rain bread", "spans": [[7, 11, "PER"]]},
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = ["--run-dir", str(run.folder), "--data", str(tmp_path / "c.jsonl")]
    with pytest.raises(DataError, match="no type NICK, PER; it has EMAIL, PERSON"):
        evaluate.main(flags)
    flags += ["--labels", "PER=PERSON,NICK=", "--both", "--errors", str(tmp_path / "e.jsonl")]
    evaluate.main([*flags, "--json"])
    scores = json.loads(capsys.readouterr().out)
    assert set(scores) == {"latents", "raw"}
    for each in scores.values():
        assert each["strict"]["true_spans"] == 3 and set(each["by_type"]) == {"PERSON"}
    evaluate.main(flags)
    shown = capsys.readouterr().out
    assert "latents\n" in shown and "raw\n" in shown
    assert shown.endswith("not labelled in these texts, so left out: EMAIL\n")
    told = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    missed = {(e["probe"], e["kind"], e["true"]["text"]) for e in told if e["document"] == 2}
    assert missed == {("latents", "missed", "rain"), ("raw", "missed", "rain")}
