"""Places that cannot be used are refused at the start, and leave nothing behind."""

import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest

from data.errors import ConfigError, StorageError
from data.storage import Store
from ray_jobs.runtime.cluster import check_output_locations


@pytest.fixture(autouse=True)
def submitted(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The driver's runtime environment."""
    context = SimpleNamespace(runtime_env={})
    monkeypatch.setattr("ray.get_runtime_context", lambda: context)
    return context


def test_a_place_is_written_seen_elsewhere_and_left_as_it_was(tmp_path: Path):
    output, storage = tmp_path / "run" / "results", tmp_path / "run"
    with check_output_locations(str(output), str(storage)) as probe:
        assert len(list(output.iterdir())) == 1
        assert Store.open(str(storage)).files() == []  # never a result
        pickle.loads(pickle.dumps(probe)).check("10.0.0.2")
    assert list(tmp_path.iterdir()) == []


def test_what_the_job_left_there_stays(tmp_path: Path):
    with check_output_locations(str(tmp_path / "run"), None):
        Store.open(str(tmp_path / "run")).write_bytes("weights", b"1")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["weights"]


@pytest.mark.parametrize("place", ["output", "storage"])
def test_one_place_that_cannot_be_written_is_refused_though_the_other_can(
    tmp_path: Path, place: str
):
    (tmp_path / "file").touch()
    paths = {"output": tmp_path / "a", "storage": tmp_path / "b"} | {place: tmp_path / "file/x"}
    refused = pytest.raises(StorageError, match="file/x.*a file stands where a directory must be")
    with refused, check_output_locations(str(paths["output"]), str(paths["storage"])):
        pytest.fail("it went on")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_directory_that_another_node_does_not_share_is_one_line(tmp_path: Path):
    with check_output_locations(str(tmp_path / "run"), None) as probe:
        (tmp_path / "run").rename(tmp_path / "elsewhere")  # what that node sees
        with pytest.raises(StorageError, match="is not shared: node 10.0.0.2") as caught:
            probe.check("10.0.0.2")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("output", "storage", "field"),
    [("runs/latest", None, "output_dir"), ("s3://bucket/run", "runs/x", "storage")],
)
def test_a_submitted_job_writes_nothing_into_its_copy_of_the_working_directory(
    submitted: SimpleNamespace, output: str, storage: str | None, field: str
):
    submitted.runtime_env = {"working_dir": "gcs://_ray_pkg_1.zip"}
    with pytest.raises(ConfigError, match=f"^{field}: .* lies in this job's copy") as caught:
        check_output_locations(output, storage).__enter__()
    assert "\n" not in str(caught.value)


def test_a_relative_place_is_good_where_nothing_was_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with check_output_locations("runs/latest", None) as probe:
        probe.check("here")
