"""The commands of the PII part: what they print and leave, and what a mistake looks like."""

import io
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from data.documents import Document, write_documents
from data.errors import ConfigError, DataError, StorageError
from data.storage import Store
from ray_jobs.pii import detector as detector_module
from ray_jobs.pii import evaluate, local_job, train
from ray_jobs.pii.detector import SAEPIIDetector
from ray_jobs.results.run_directory import verify, write_manifest
from tests.pii_run import LAYER, Run, documents

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run(pii_run: Run) -> Run:
    return pii_run


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


def test_the_detector_shows_what_is_asked_for(run, tmp_path, capsys):
    text = "rain table Alice river bread.12@mail.org music Bruno"
    (tmp_path / "a.txt").write_text(text)
    flags = ["--run-dir", str(run.folder), "--redact", str(tmp_path / "a.txt")]

    def redacted(*more: str) -> str:
        detector_module.main([*more, *flags])
        return capsys.readouterr().out

    assert redacted() == "rain table [PERSON] river [EMAIL] music [PERSON]"
    assert redacted("--types", "EMAIL") == "rain table Alice river [EMAIL] music Bruno"
    assert redacted("--threshold", "0,PERSON=1") == "rain table Alice river [EMAIL] music Bruno"
    (tmp_path / "allow.txt").write_text("alice\n\n")
    allow = ("--allow", str(tmp_path / "allow.txt"))
    assert redacted(*allow) == "rain table Alice river [EMAIL] music [PERSON]"


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--types", "PERSON,NAME"), "no type 'NAME'; this detector has EMAIL, PERSON"),
        (("--threshold", "NAME=0.5"), "no type 'NAME'"),
        (("--threshold", "1.5"), "give a number from 0 to 1"),
        (("--threshold", "PERSON=high"), "give a number from 0 to 1"),
        (("--allow", "gone.txt"), "gone.txt"),
    ],
)
def test_a_wrong_filter_is_one_line(run, tmp_path, flags, problem):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DataError) as caught:
        detector_module.main([*flags, "--run-dir", str(run.folder), str(tmp_path / "a.txt")])
    assert problem in str(caught.value) and "\n" not in str(caught.value)


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


def train_flags(run: Run, data: Path, out: Path) -> list[str]:
    return [
        *("--data", str(data), "--sae", str(run.folder / "sae_final.pt"), "--layer", str(LAYER)),
        *("--epochs", "3", "--window", "1", "--batch-tokens", "512", "--output-dir", str(out)),
    ]


def test_train_leaves_a_run_that_the_detector_opens(run, tmp_path, capsys):
    write_documents(documents(0, 150), tmp_path / "own.jsonl")
    out = tmp_path / "out"
    flags = [*train_flags(run, tmp_path / "own.jsonl", out), "--json"]
    train.main(flags)
    lines = capsys.readouterr().out.splitlines()
    assert set(json.loads(lines[-1])["f1"]) == {"latents", "raw"}
    assert any("tokens/s" in line and "left" in line for line in lines)
    assert json.loads((out / "evaluation.json").read_text())["latents"]["documents"] > 5
    assert verify(Store.open(str(out))) == 6
    detector = SAEPIIDetector.from_run(f"file://{out}")
    assert list(itertools.chain(*detector.detect_batch(["rain", "Emma"])))
    command = [sys.executable, "-m", "ray_jobs.pii.train", *flags[:-1]]
    again = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    first, scores, last = again.stdout.splitlines()
    assert "already complete" in first and "strict F1: latents " in scores
    assert last == f"pii    file://{out}/classifiers"


def test_train_does_not_write_into_the_run_of_another_job(run, tmp_path):
    write_documents(documents(0, 150), tmp_path / "own.jsonl")
    other = Store.open(str(tmp_path / "other"))
    write_manifest(other, {"sae": {}})
    with pytest.raises(ConfigError, match="^output_dir: .* holds the run of another job"):
        train.main(train_flags(run, tmp_path / "own.jsonl", tmp_path / "other"))
    assert other.files() == ["manifest.json"]


def test_train_needs_labels_and_paths(run, tmp_path):
    with pytest.raises(ConfigError, match="^--output-dir: must be given"):
        train.main(["--sae", "x"])
    plain = [Document(f"{n} rain", (), "en", "user") for n in range(60)]
    write_documents(plain, tmp_path / "plain.jsonl")
    with pytest.raises(DataError, match="no span"):
        train.main(train_flags(run, tmp_path / "plain.jsonl", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_train_says_at_once_where_it_cannot_write(run, tmp_path, monkeypatch):
    monkeypatch.setattr(local_job, "HostModel", lambda *_, **__: pytest.fail("too late"))
    write_documents(documents(0, 150), tmp_path / "own.jsonl")
    # Not even root may make a directory there.
    with pytest.raises(StorageError, match="cannot write /proc/run/"):
        train.main(train_flags(run, tmp_path / "own.jsonl", Path("/proc/run")))


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_a_device_that_is_not_here_is_named(run, tmp_path, device):
    write_documents(documents(0, 150), tmp_path / "own.jsonl")
    with pytest.raises(ConfigError, match=f"^device: '{device}' is"):
        train.main(
            [*train_flags(run, tmp_path / "own.jsonl", tmp_path / "out"), "--device", device]
        )
    (tmp_path / "one.txt").write_text("Emma")
    with pytest.raises(ConfigError, match=f"^device: '{device}' is"):
        detector_module.main(
            ["--run-dir", str(run.folder), "--device", device, str(tmp_path / "one.txt")]
        )
