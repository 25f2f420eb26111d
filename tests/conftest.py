"""The real S3 server that tests of any folder may ask for; it starts once, when first asked."""

import os
import uuid
from collections.abc import Iterator

import pytest

from tests.storage.ceph import CephServer, missing_programs
from tests.storage.faultproxy import FaultProxy

BUCKET = "raylambda-tests"


@pytest.fixture(scope="session")
def ceph() -> Iterator[CephServer]:
    """A running Ceph RADOS Gateway with the bucket `BUCKET`."""
    missing = missing_programs()
    if missing:
        reason = f"{', '.join(missing)} not installed: apt-get install radosgw ceph-mon ceph-osd"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    server = CephServer()
    try:
        server.start()
        server.create_bucket(BUCKET)
        yield server
    finally:
        server.stop()


@pytest.fixture
def s3(ceph: CephServer, monkeypatch: pytest.MonkeyPatch) -> CephServer:
    """The server, with this process's credentials for it in the environment."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in ceph.environment.items():
        monkeypatch.setenv(name, value)
    return ceph


@pytest.fixture
def s3_uri(s3: CephServer) -> str:
    """An empty place of its own in the bucket."""
    return s3.uri(BUCKET, uuid.uuid4().hex[:12])


@pytest.fixture
def proxy(s3: CephServer) -> Iterator[FaultProxy]:
    with FaultProxy(s3.port) as running:
        yield running


@pytest.fixture
def proxied_uri(s3: CephServer, s3_uri: str, proxy: FaultProxy) -> str:
    """The same place as `s3_uri`, reached through the proxy."""
    return s3_uri.replace(s3.endpoint, proxy.endpoint)
