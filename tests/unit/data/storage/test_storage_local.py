"""Stores on a local disk, URIs, retries and the words of errors."""

import hashlib
import os
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from data.errors import CorruptFileError, StorageError
from data.storage import FileRecord, Store, transfer
from data.storage.__main__ import main
from data.storage.transfer import TransferProgress

DATA = bytes(range(256)) * 40


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def files_in(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_files_come_back_as_they_were(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA)
    record = FileRecord(len(DATA), hashlib.sha256(DATA).hexdigest())
    assert store.files() == [] and store.directories() == []
    assert store.upload(source, "a/b/large") == record == store.write_bytes("large", DATA)
    store.write_json("a/facts.json", {"x": 1})
    assert store.files() == ["a/b/large", "a/facts.json", "large"]
    assert store.files("a/b") == ["a/b/large"]
    assert store.child("a", "b").files() == ["large"]
    assert store.directories() == ["a"]
    assert (store.size("large"), store.size("a"), store.size("none")) == (len(DATA), None, None)
    assert (store.exists("large"), store.exists("none")) == (True, False)
    assert store.read_bytes("large", record) == DATA
    assert store.read_json("a/facts.json") == {"x": 1}
    store.fetch("a/b/large", tmp_path / "deep" / "copy", record)
    assert (tmp_path / "deep" / "copy").read_bytes() == DATA
    for _ in range(2):
        store.delete("large")
        store.delete_tree("a")
        assert store.files() == []


def test_bytes_in_pieces_are_hashed_and_flushed_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 10)
    monkeypatch.setattr(transfer, "FLUSH_EVERY_BYTES", 30)
    calls: list[int | str] = []

    class Stream:
        def write(self, data: memoryview) -> None:
            calls.append(len(data))

        def flush(self) -> None:
            calls.append("flush")

    out = transfer.HashingWriter(Stream(), TransferProgress())
    for piece in (DATA[:7], bytearray(DATA[7:40]), memoryview(DATA)[40:65]):
        assert out.write(piece) == len(piece)
    assert out.record() == FileRecord(65, hashlib.sha256(DATA[:65]).hexdigest())
    assert calls == [7, 10, 10, 3, "flush", 10, 10, 10, "flush", 5]


def test_a_file_other_than_recorded_is_refused(store: Store, tmp_path: Path) -> None:
    record = store.write_bytes("file", b"abc")
    store.write_bytes("file", b"abd")
    with pytest.raises(CorruptFileError, match="sha256"):
        store.read_bytes("file", record)
    store.write_bytes("file", b"abcd")
    target = tmp_path / "target"
    target.write_bytes(b"old")
    with pytest.raises(CorruptFileError, match="4 bytes instead of 3"):
        store.fetch("file", target, record)
    assert target.read_bytes() == b"old"
    with pytest.raises(CorruptFileError, match="is missing"):
        store.read_bytes("none", record)
    store.write_bytes("file", b"{")
    with pytest.raises(CorruptFileError, match="not JSON"):
        store.read_json("file")


def test_a_failing_producer_leaves_the_old_file(store: Store, tmp_path: Path) -> None:
    store.write_bytes("file", b"old")

    def produce(out: transfer.HashingWriter) -> None:
        out.write(b"new")
        raise KeyError("producer")

    with pytest.raises(KeyError):
        store.write_stream("file", produce)
    assert files_in(tmp_path / "store") == ["file"]
    assert store.read_bytes("file") == b"old"


def test_a_partial_file_is_not_listed(store: Store, tmp_path: Path) -> None:
    """What a killed process leaves behind."""
    seen: list[list[str]] = []
    store.write_stream("a/file", lambda out: (out.write(DATA), seen.append(store.files())))
    assert seen == [[]]
    assert store.files() == ["a/file"]
    assert files_in(tmp_path / "store") == ["a", "a/file"]


def test_an_upload_is_checked_and_repeated(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    look, calls = Store._info, iter([True, False])
    short = pafs.FileInfo("file", pafs.FileType.File, size=3)
    monkeypatch.setattr(Store, "_info", lambda *at: short if next(calls) else look(*at))
    assert store.write_bytes("file", DATA).size_bytes == len(DATA)
    assert f"3 bytes are stored of {len(DATA)} written" in caplog.text
    monkeypatch.setattr(Store, "_info", lambda *at: short)
    with pytest.raises(StorageError, match=f"3 bytes are stored of {len(DATA)} written"):
        Store.open(store.uri, retry_s=0).write_bytes("file", DATA)


def test_a_full_disk_is_one_line(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_full_device(path: Path) -> Path:
        partial = path.with_name("full")
        partial.symlink_to("/dev/full")
        return partial

    monkeypatch.setattr(transfer, "partial_path", on_full_device)
    with pytest.raises(StorageError, match=r"cannot write .*file: the disk is full; free space"):
        store.write_bytes("file", DATA)
    assert files_in(tmp_path / "store") == []
    monkeypatch.undo()
    record = store.write_bytes("file", DATA)
    monkeypatch.setattr(transfer, "partial_path", on_full_device)
    with pytest.raises(StorageError, match=r"cannot write .*copy: the disk is full"):
        store.fetch("file", tmp_path / "copy", record)


def test_no_permission_is_one_line(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    as_root = os.geteuid() == 0
    if as_root:
        os.seteuid(65534)
    try:
        with pytest.raises(StorageError, match="no permission; change the permissions"):
            Store.open(str(closed)).write_bytes("a/file", DATA)
    finally:
        if as_root:
            os.seteuid(0)


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="a file stands where a directory must be"):
        Store.open(str(tmp_path / "file")).write_bytes("below", DATA)


@pytest.mark.parametrize("name", ["", "/abs", "../up", "a/../b", "a//b", "./a"])
def test_names_stay_within_the_store(store: Store, name: str) -> None:
    with pytest.raises(StorageError, match="not a relative name"):
        store.write_bytes(name, DATA)


def test_the_doctor_leaves_a_directory_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_bytes(b"")
    assert main(["doctor", str(tmp_path / "there")]) == 0
    assert main(["doctor", f"file://{tmp_path}/new/place"]) == 0
    assert files_in(tmp_path) == ["there", "there/mine"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 16 and lines[7].startswith("ok: ")
    assert main(["doctor", str(tmp_path / "there" / "mine")]) == 2
    assert capsys.readouterr().out.splitlines()[-1].startswith("FAIL: ")
    assert main(["doctor"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: command line: the following arguments are required: uri")
