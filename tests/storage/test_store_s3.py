"""The store against a real S3 server: what it stores, what it survives, how it says no."""

import hashlib
import os
import pickle
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from data.errors import CorruptFileError, StorageError
from data.storage import FileRecord, Store
from tests.conftest import BUCKET
from tests.storage.ceph import ACCESS_KEY, SECRET_KEY, CephServer, free_port
from tests.storage.faultproxy import EVERY_WRITE, Fault, FaultProxy, Kind, fault_on

pytestmark = pytest.mark.storage
SMALL = b"small"
LARGE = random.Random(7).randbytes(25 << 20)  # three parts


def record_of(data: bytes) -> FileRecord:
    return FileRecord(len(data), hashlib.sha256(data).hexdigest())


def one_line(error: StorageError) -> str:
    text = str(error)
    assert "\n" not in text and "Traceback" not in text
    assert SECRET_KEY not in text and ACCESS_KEY not in text
    return text


def test_files_come_back_as_they_were(s3_uri: str, tmp_path: Path) -> None:
    store = Store.open(s3_uri)
    local = tmp_path / "large"
    local.write_bytes(LARGE)
    assert store.files() == []
    assert store.upload(local, "deep/large") == record_of(LARGE)
    assert store.write_bytes("empty", b"") == record_of(b"")
    store.write_json("deep/er/facts.json", {"a": [1, None]})
    assert store.files() == ["deep/er/facts.json", "deep/large", "empty"]
    assert store.child("deep").files() == ["er/facts.json", "large"]
    assert store.files("deep/er") == ["deep/er/facts.json"]
    assert store.directories() == ["deep"]
    assert (store.size("deep/large"), store.size("deep"), store.size("no")) == (
        len(LARGE),
        None,
        None,
    )
    assert store.read_json("deep/er/facts.json") == {"a": [1, None]}
    assert store.read_bytes("empty", record_of(b"")) == b""
    store.fetch("deep/large", tmp_path / "new" / "back", record_of(LARGE))
    assert (tmp_path / "new" / "back").read_bytes() == LARGE


def test_deleting_is_idempotent(s3_uri: str) -> None:
    store = Store.open(s3_uri)
    for name in ("a/1", "a/b/2", "c"):
        store.write_bytes(name, SMALL)
    for _ in range(2):
        store.delete("c")
        store.delete_tree("a")
        assert store.files() == []
        assert store.directories() == []


def test_a_small_file_costs_one_request_and_its_check(proxied_uri: str, proxy: FaultProxy) -> None:
    Store.open(proxied_uri).write_bytes("small", SMALL)
    assert dict(proxy.seen) == {"put": 1, "head": 1}


def test_a_file_other_than_recorded_is_refused(s3_uri: str, tmp_path: Path) -> None:
    store = Store.open(s3_uri)
    record = store.write_bytes("file", b"abc")
    store.write_bytes("file", b"abd")
    with pytest.raises(CorruptFileError, match="sha256"):
        store.read_bytes("file", record)
    store.write_bytes("file", b"ab")
    with pytest.raises(CorruptFileError, match="2 bytes instead of 3"):
        store.fetch("file", tmp_path / "file", record)
    with pytest.raises(CorruptFileError, match="is missing"):
        store.fetch("gone", tmp_path / "file", record)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StorageError, match="does not exist"):
        store.read_bytes("gone")


def test_a_pickled_store_holds_no_secret_and_works_in_a_fresh_process(
    s3: CephServer, s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = dict(os.environ)  # where no variable names the server
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{s3.endpoint}")
    store = Store.open(s3_uri.partition("?")[0])
    record = store.write_bytes("file", LARGE)
    pickled = pickle.dumps((store, record))
    assert SECRET_KEY.encode() not in pickled and ACCESS_KEY.encode() not in pickled
    code = (
        "import pickle, sys; store, record = pickle.load(sys.stdin.buffer); "
        "sys.stdout.write(str(len(store.read_bytes('file', record))))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=pickled, capture_output=True, env=elsewhere)
    assert done.stdout == str(len(LARGE)).encode(), done.stderr


@pytest.mark.parametrize(
    ("environment", "bucket", "expected"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, BUCKET, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "wrong"}, BUCKET, "AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, BUCKET, "has no credentials"),
        ({}, "not-there", "the bucket does not exist"),
    ],
    ids=["secret", "key", "no credentials", "bucket"],
)
def test_what_cannot_pass_by_itself_fails_at_once(
    s3: CephServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    environment: dict[str, str],
    bucket: str,
    expected: str,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    store = Store.open(s3.uri(bucket, "x"), retry_s=60)
    start = time.monotonic()
    for act in (
        lambda: store.write_bytes("small", SMALL),
        lambda: store.write_bytes("large", LARGE),
        lambda: store.files(),
    ):
        with pytest.raises(StorageError) as caught:
            act()
        assert expected in one_line(caught.value)
        assert f"s3://{bucket}/x" in str(caught.value)
    assert time.monotonic() - start < 20


REFUSED = Fault("answer", status=403, code="AccessDenied")
NO_LENGTH = Fault("answer", status=411, code="MissingContentLength")
BUSY = Fault("answer", status=503, code="SlowDown")


@pytest.mark.parametrize(
    ("fault", "kind", "expected"),
    [
        (REFUSED, "put", "access denied"),
        (REFUSED, "part", "access denied"),
        (REFUSED, "complete", "access denied"),
        (NO_LENGTH, "put", "when_required"),
        (NO_LENGTH, "part", "when_required"),
        (BUSY, "put", "SLOW_DOWN"),
        (BUSY, "part", "SLOW_DOWN"),
        (Fault("drop"), "put", "cannot be reached"),
        (Fault("drop"), "part", "cannot be reached"),
        (Fault("stall"), "put", "cannot be reached"),
    ],
)
def test_a_lasting_fault_is_one_line_and_leaves_nothing(
    proxied_uri: str, proxy: FaultProxy, fault: Fault, kind: Kind, expected: str
) -> None:
    """Plain `pyarrow.fs.copy_files` calls most of these a success."""
    store = Store.open(proxied_uri, retry_s=2)
    start = time.monotonic()
    with fault_on(proxy, replace(fault, kinds=(kind,))):
        with pytest.raises(StorageError, match=expected) as caught:
            store.write_bytes("file", SMALL if kind == "put" else LARGE)
    assert "cannot write s3://" in one_line(caught.value)
    assert time.monotonic() - start < 20
    assert store.files() == []


@pytest.mark.parametrize("action", ["answer", "drop", "stall"])
def test_a_passing_fault_is_ridden_out(proxied_uri: str, proxy: FaultProxy, action) -> None:
    store = Store.open(proxied_uri, retry_s=4)
    with fault_on(proxy, Fault(action, EVERY_WRITE, times=2)):
        assert store.write_bytes("file", LARGE) == record_of(LARGE)
    with fault_on(proxy, Fault(action, ("get", "head"), times=2)):
        assert store.read_bytes("file", record_of(LARGE)) == LARGE
    with fault_on(proxy, Fault(action, ("list",), times=1)):
        assert store.files() == ["file"]


def test_many_failures_in_a_row_repeat_the_whole_file(proxied_uri: str, proxy: FaultProxy) -> None:
    """More refusals than the SDK's own attempts for one request."""
    store = Store.open(proxied_uri, retry_s=20)
    with fault_on(proxy, Fault("answer", ("put",), times=9)) as fault:
        assert store.write_bytes("file", SMALL) == record_of(SMALL)
    assert fault.hits == 9


def test_a_producer_that_fails_leaves_nothing(s3_uri: str) -> None:
    store = Store.open(s3_uri)

    def produce(out) -> None:
        out.write(b"half")
        raise KeyError("producer")

    with pytest.raises(KeyError, match="producer"):
        store.write_stream("file", produce)
    assert store.files() == []


def test_a_dead_server_is_told_after_the_budget(s3: CephServer) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    store = Store.open(s3.uri(BUCKET, "x", endpoint), retry_s=2)
    start = time.monotonic()
    with pytest.raises(StorageError, match=f"the server {endpoint} cannot be reached") as caught:
        store.write_bytes("file", SMALL)
    assert 2 <= time.monotonic() - start < 10
    assert "AWS_ENDPOINT_URL_S3" in one_line(caught.value)


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "profile"])
def test_the_endpoint_of_the_environment_is_used(
    s3: CephServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    url = f"http://{s3.endpoint}"
    if variable == "profile":
        profile = tmp_path / "config"
        profile.write_text(
            "[profile lab]\nservices = own\nregion = us-east-1\n"
            f"[services own]\ns3 =\n  endpoint_url = {url}\n"
        )
        monkeypatch.setenv("AWS_CONFIG_FILE", str(profile))
        monkeypatch.setenv("AWS_PROFILE", "lab")
    else:
        monkeypatch.setenv(variable, url)
    store = Store.open(f"s3://{BUCKET}/by-{variable}", retry_s=2)
    store.write_bytes("file", SMALL)
    assert store.files() == ["file"]


def test_a_profile_file_gives_the_credentials(
    s3: CephServer, s3_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = tmp_path / "credentials"
    keys.write_text(
        f"[lab]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    )
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    store = Store.open(s3_uri, retry_s=2)
    store.write_bytes("file", SMALL)
    assert store.read_bytes("file") == SMALL


def test_checksums_that_the_server_refuses_are_off_by_default(s3_uri: str) -> None:
    """The SDK's own default makes this server answer 411."""
    code = (
        "import sys; from data.storage import Store; from data.errors import StorageError\n"
        "try: Store.open(sys.argv[1], retry_s=1).write_bytes('file', b'x' * (12 << 20))\n"
        "except StorageError as error: sys.stdout.write(str(error))"
    )
    said = {}
    for choice in ("when_supported", None):
        environment = {**os.environ, "AWS_REQUEST_CHECKSUM_CALCULATION": choice or ""}
        if choice is None:
            del environment["AWS_REQUEST_CHECKSUM_CALCULATION"]
        done = subprocess.run(
            [sys.executable, "-c", code, s3_uri], env=environment, capture_output=True, text=True
        )
        said[choice] = done.stdout + done.stderr.replace("\n", " ")
    assert "AWS_REQUEST_CHECKSUM_CALCULATION=when_required" in said["when_supported"]
    assert said[None] == ""
