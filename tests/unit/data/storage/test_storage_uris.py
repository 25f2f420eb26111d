"""URIs of stores and the endpoints they lead to; no secret is ever taken or repeated."""

import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import StorageError
from data.storage import Store, open_filesystem
from data.storage.filesystem import resolve_endpoint
from data.storage.location import parse_location


def test_uris_and_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store.open("runs/demo").uri == f"file://{tmp_path}/runs/demo"
    assert Store.open("file:///a%20b/").uri == "file:///a%20b"
    uri = "s3://bucket/a/b?endpoint_override=localhost:9000&scheme=http"
    store = Store.open(uri)
    assert store.uri == uri
    assert store.child("c").uri == "s3://bucket/a/b/c?endpoint_override=localhost:9000&scheme=http"
    assert pickle.loads(pickle.dumps(store)) == store
    _, path = open_filesystem(f"file://{tmp_path}/x")
    assert path == f"{tmp_path}/x"


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20))
def test_any_path_survives_its_uri(name: str) -> None:
    location = parse_location("/root").child(name)
    assert parse_location(location.uri).path == location.path.rstrip("/")


SECRET = "wJalrXUtnFEMI/K7MDENG"


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://AKIAEXAMPLE:{SECRET}@bucket/path",
        f"s3://bucket/path?access_key=AKIAEXAMPLE&secret_key={SECRET}",
        f"s3://bucket/path?endpoint_override=AKIAEXAMPLE:{SECRET}@host:9000",
        f"s3://bucket/path?region={SECRET}",
        f"s3://bucket/path#{SECRET}",
        f"s3:/AKIAEXAMPLE:{SECRET}@bucket",
        f"https://AKIAEXAMPLE:{SECRET}@bucket/path",
    ],
)
def test_credentials_in_a_uri_are_refused_unseen(uri: str) -> None:
    with pytest.raises(StorageError) as caught:
        Store.open(uri)
    text = str(caught.value)
    assert "AKIAEXAMPLE" not in text and "wJalr" not in text and "MDENG" not in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "uri", ["", "gs://bucket/x", "file://host/x", "file:relative://", "s3://a"]
)
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(StorageError):
        Store.open(uri)


def test_the_endpoint_comes_from_the_uri_then_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "config"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    bare = parse_location("s3://bucket/x")
    assert resolve_endpoint(bare) is None
    config.write_text(
        "[default]\nendpoint_url = https://d:1\n[profile p]\nendpoint_url=http://p:2\n"
    )
    assert resolve_endpoint(bare) == ("https", "d:1")
    monkeypatch.setenv("AWS_PROFILE", "p")
    assert resolve_endpoint(bare) == ("http", "p:2")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://any:3")
    assert resolve_endpoint(bare) == ("http", "any:3")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3:4/")
    assert resolve_endpoint(bare) == ("https", "s3:4")
    own = parse_location("s3://bucket/x?endpoint_override=own:5&scheme=http")
    assert resolve_endpoint(own) == ("http", "own:5")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"https://key:{SECRET}@s3:4")
    with pytest.raises(StorageError, match="not of the form") as caught:
        resolve_endpoint(bare)
    assert "MDENG" not in str(caught.value)


def test_a_store_leads_every_process_to_the_server_of_the_one_that_sent_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    stores = [Store.open("s3://bucket/x"), Store.open(str(tmp_path))]
    of_aws = pickle.dumps(stores)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://mine:3")
    monkeypatch.setenv("AWS_REGION", "here")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    sent = pickle.dumps(stores)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://other:4")
    monkeypatch.setenv("AWS_REGION", "there")
    remote, local = pickle.loads(sent)
    assert remote.uri == "s3://bucket/x?endpoint_override=mine:3&region=here&scheme=http"
    assert remote.label == "s3://bucket/x" and local == stores[1]
    assert pickle.loads(pickle.dumps(remote)) == remote
    assert SECRET.encode() not in sent
    assert pickle.loads(of_aws) == stores
