"""Labelled texts in a bucket: built there, verified, read, and one line where they are not."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.build import build_pii
from data.documents import Span, read_documents
from data.errors import CorruptFileError, StorageError
from data.files import join_uri, split_uri
from data.manifest import Manifest
from data.storage import Store

pytestmark = pytest.mark.storage


def test_a_build_in_a_bucket_is_verified_read_and_used_again(s3_uri: str, tmp_path) -> None:
    folder = join_uri(s3_uri, "data")
    built = build_pii(folder, 3, 50, ("en",))
    local = build_pii(tmp_path, 3, 50, ("en",))
    assert [e.sha256 for e in built.entries] == [e.sha256 for e in local.entries]
    loaded = Manifest.load(folder)
    loaded.verify()
    assert read_documents(loaded.locate("pii-test")) == read_documents(local.locate("pii-test"))
    assert build_pii(folder, 3, 50, ("en",)) == loaded
    where, name = split_uri(loaded.locate("pii-test"))
    Store.open(where).write_bytes(name, b"{}\n")
    with pytest.raises(CorruptFileError, match="rebuild with: python -m data.build"):
        loaded.verify()


def test_a_users_parquet_file_in_a_bucket(s3_uri: str, tmp_path) -> None:
    rows = [{"text": "Ann Lee", "spans": [{"start": 0, "end": 7, "label": "PERSON"}]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    Store.open(s3_uri).upload(tmp_path / "a.parquet", "a.parquet")
    (document,) = read_documents(join_uri(s3_uri, "a.parquet"))
    assert document.spans == (Span(0, 7, "PERSON"),)


def test_a_missing_object_is_one_line(s3_uri: str) -> None:
    with pytest.raises(StorageError, match="does not exist") as caught:
        read_documents(join_uri(s3_uri, "gone.jsonl"))
    assert "\n" not in str(caught.value)
