"""The detector on the embedded host: files, windows, redaction, command line, mismatches."""

import shutil
from dataclasses import replace

import pytest
import torch

from data.errors import CorruptFileError, DataError
from data.storage import Store
from ray_jobs.activations.host_files import locate
from ray_jobs.activations.host_model import HostModel
from ray_jobs.pii.classifier import Classifier, Origin
from ray_jobs.pii.detector import SAEPIIDetector, redacted
from ray_jobs.pii.spans import PIISpan
from ray_jobs.results.run_directory import write_manifest
from ray_jobs.sae.export import save_sae
from ray_jobs.sae.model import TopKSAE
from tests.hosts import save_tiny_llama
from tests.pii_run import HOST, LAYER, Run, documents

FILLER = "rain garden table bread winter river cloud music window letter "
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run(pii_run: Run) -> Run:
    return pii_run


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
    write_manifest(Store.open(uri), {})
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


def test_the_host_model_may_have_moved(run, tmp_path):
    (tmp_path / "host").symlink_to(locate(HOST).folder)
    detector = SAEPIIDetector.from_run(run.folder, model=tmp_path / "host")
    assert detector.redact("rain Alice") == "rain [PERSON]"
    with pytest.raises(DataError, match="was trained on another host model"):
        SAEPIIDetector.from_run(run.folder, model=save_tiny_llama(tmp_path / "llama"))
    classifier = Classifier.load(run.folder / "classifiers/raw")
    gone = replace(classifier.origin, host=str(tmp_path / "gone"))
    replace(classifier, origin=gone).save(Store.open(str(tmp_path / "raw")))
    with pytest.raises(DataError, match="gone.*if it is elsewhere now, say where with --model"):
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
