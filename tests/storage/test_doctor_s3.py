"""`python -m data.storage doctor` on buckets that are well, sick and dead."""

import time

import pytest

from data.storage import Store
from data.storage.__main__ import main
from tests.conftest import BUCKET
from tests.storage.ceph import SECRET_KEY, CephServer, free_port
from tests.storage.faultproxy import Fault, FaultProxy, fault_on

pytestmark = pytest.mark.storage


def test_a_healthy_bucket(s3_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    Store.open(s3_uri).write_bytes("mine", b"stays")
    start = time.monotonic()
    assert main(["doctor", s3_uri]) == 0
    assert time.monotonic() - start < 20
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert all(" ok " in line for line in lines[:-1])
    assert "MB/s" in lines[1]
    assert lines[-1].startswith("ok: s3://") and "endpoint_override" not in lines[-1]
    assert Store.open(s3_uri).files() == ["mine"]


def test_a_bucket_that_refuses_large_files(
    proxied_uri: str, proxy: FaultProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    with fault_on(proxy, Fault("answer", ("part",), 403, "AccessDenied")):
        assert main(["doctor", proxied_uri]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert " ok " in lines[0]
    assert "FAIL" in lines[1] and "access denied" in lines[1]
    assert lines[-1].startswith("FAIL: s3://")
    assert Store.open(proxied_uri).files() == []


def test_a_missing_bucket_and_a_dead_server(
    s3: CephServer, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    assert main(["doctor", s3.uri("not-there")]) == 2
    assert "the bucket does not exist" in capsys.readouterr().out
    assert time.monotonic() - start < 5
    assert main(["doctor", s3.uri(BUCKET, "x", f"127.0.0.1:{free_port()}")]) == 2
    assert time.monotonic() - start < 15
    lines = capsys.readouterr().out.splitlines()
    assert "cannot be reached" in lines[0]
    assert len(lines) == 3


def test_a_secret_in_the_uri_is_refused_and_not_repeated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", f"s3://key:{SECRET_KEY}@bucket/x"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert SECRET_KEY not in said.err and SECRET_KEY.partition("/")[2] not in said.err
