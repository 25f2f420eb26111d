"""The manifest: what it says, and that a changed byte is refused."""

import json
import shutil
from pathlib import Path

import pytest

from data import build
from data.build import build_pii, main
from data.command_line import run_main
from data.errors import ConfigError, CorruptFileError, DataError
from data.files import join_uri, split_uri
from data.manifest import Entry, Manifest

SETTINGS = (3, 100, ("en", "it"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return build_pii(tmp_path_factory.mktemp("original"), *SETTINGS)


@pytest.fixture
def built(original: Manifest, tmp_path: Path) -> Manifest:
    """A copy of the original build, to be spoilt."""
    shutil.copytree(original.folder, tmp_path / "data")
    return Manifest.load(tmp_path / "data")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_entries_name_file_rows_and_licence(built: Manifest, tmp_path: Path) -> None:
    names = [f"{kind}-{split}" for split in build.SPLITS for kind in ("pii", "prose")]
    assert [entry.name for entry in built.entries] == names
    for entry in built.entries:
        lines = Path(built.locate(entry.name)).read_bytes().splitlines()
        assert len(lines) == entry.rows > 0
        assert ("PSF" in entry.licence) == entry.name.startswith("prose")
    assert sum(entry.rows for entry in built.entries if entry.name.startswith("pii")) == 100
    assert built.made_by["python"] and built.made_by["faker"]


def test_load_gives_what_was_saved_from_folder_file_or_uri(built: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    assert Manifest.load(folder) == built
    assert Manifest.load(folder / "manifest.json") == built
    Manifest.load(folder.as_uri()).verify()


def test_the_folder_can_be_moved(built: Manifest, tmp_path: Path) -> None:
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    Manifest.load(tmp_path / "elsewhere").verify()


def test_a_changed_byte_is_refused_in_one_line(built: Manifest) -> None:
    path = Path(built.locate("pii-test"))
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFileError) as caught:
        built.verify()
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: sha256 is ")
    assert built.entry("pii-test").sha256 in message
    assert "rebuild with: python -m data.build pii --seed 3 --documents 100" in message


def test_a_missing_file_is_refused_in_one_line(built: Manifest) -> None:
    path = Path(built.locate("prose-train"))
    path.unlink()
    with pytest.raises(DataError, match=f"{path}: the file is gone; rebuild with: python -m"):
        built.verify()


def test_an_unknown_name_lists_the_known(built: Manifest) -> None:
    with pytest.raises(DataError, match="no data called 'pii-dev'.*pii-train, prose-train"):
        built.locate("pii-dev")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"entries": {}, "made_by": {}, "rebuild": ""}',
        '{"entries": [{"name": "x"}], "made_by": {}, "rebuild": ""}',
    ],
)
def test_what_is_not_a_manifest_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match="not a manifest") as caught:
        Manifest.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_entry_of_the_wrong_type_is_refused(built: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "data" / "manifest.json"
    content = json.loads(path.read_text())
    content["entries"][0]["rows"] = "many"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="entry 'pii-train' has a field of the wrong type"):
        Manifest.load(path)


def test_whole_data_is_used_again(built: Manifest, tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object) -> str:
        raise AssertionError("written again")

    monkeypatch.setattr(build, "write_documents", refuse)
    assert build_pii(tmp_path / "data", *SETTINGS) == built
    with pytest.raises(AssertionError, match="written again"):
        build_pii(tmp_path / "data", 4, *SETTINGS[1:])


def test_a_build_that_breaks_off_leaves_no_manifest(
    built: Manifest, tmp_path: Path, monkeypatch
) -> None:
    def fail(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "write_documents", fail)
    with pytest.raises(KeyboardInterrupt):
        build_pii(tmp_path / "data", 4, *SETTINGS[1:])
    assert not (tmp_path / "data" / "manifest.json").exists()


def test_command_builds_reuses_and_mends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    command = ["pii", "--seed", "3", "--documents", "100", "--languages", "en,it"]
    command += ["--output-dir", str(folder)]
    main(command)
    assert f"built: {folder}/manifest.json" in capsys.readouterr().out
    before = bytes_of(folder)
    main(command)
    assert "whole already: used again" in capsys.readouterr().out
    (folder / "pii-train.jsonl").write_text("changed")
    main(command)
    assert "built: " in capsys.readouterr().out
    assert bytes_of(folder) == before


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ((-1, 100, ("en",)), "seed: -1 is below 0"),
        ((0, 49, ("en",)), "documents: 49 is too few for 1 language; at least 50"),
        ((0, 100, ("en", "xx")), "languages: 'en,xx' is not a choice of en,de,fr,es,it"),
        ((0, 100, ("en", "en")), "languages: 'en,en' is not a choice of"),
        ((0, 100, ()), "languages: '' is not a choice of"),
    ],
)
def test_settings_out_of_range_name_the_field(
    tmp_path: Path, settings: tuple[int, int, tuple[str, ...]], problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build_pii(tmp_path / "out", *settings)
    assert str(caught.value).startswith(problem)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--documents", "250", "--output-dir", "{file}/out"), "{file}"),
        (("--documents", "7", "--output-dir", "{folder}"), "documents: 7 is too few"),
        (("--documents", "many", "--output-dir", "{folder}"), "command line: argument --documents"),
        (("--documents", "250"), "command line: the following arguments are required: --output-"),
    ],
)
def test_the_command_says_a_mistake_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    line: str,
) -> None:
    (tmp_path / "file").write_text("")
    places = {"file": tmp_path / "file", "folder": tmp_path}
    given = [flag.format(**places) for flag in flags]
    monkeypatch.setattr("sys.argv", ["build", "pii", *given])
    with pytest.raises(SystemExit) as ended:
        run_main(main)
    (said,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert said.startswith("error: ") and line.format(**places) in said


def test_uris_are_split_and_joined_around_an_s3_query() -> None:
    uri = "s3://bucket/a/b.jsonl?endpoint_override=http://localhost:9000"
    folder, name = split_uri(uri)
    assert (folder, name) == ("s3://bucket/a?endpoint_override=http://localhost:9000", "b.jsonl")
    assert join_uri(folder, name) == uri
    assert split_uri("b.jsonl") == (".", "b.jsonl")
    assert split_uri("/b?.jsonl") == ("/", "b?.jsonl")
    entry = Entry("x", "x.jsonl", "", 1, "")
    manifest = Manifest((entry,), folder=folder)
    assert manifest.locate("x") == uri.replace("b.jsonl", "x.jsonl")
