"""A note of a Ray that is no more does not keep a job from starting its own."""

import socket
from pathlib import Path

import pytest

from data.errors import InputError
from ray_jobs.runtime.cluster import address_to_join


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def test_a_ray_that_answers_is_joined_and_one_that_is_gone_is_not(noted: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        noted.write_text(f"127.0.0.1:{server.getsockname()[1]}\n")
        assert address_to_join() is None
    assert address_to_join() == "local"


def test_without_a_note_a_job_starts_its_own(noted: Path) -> None:
    assert address_to_join() == "local"
    noted.write_text("nonsense")
    assert address_to_join() == "local"


def test_an_address_that_was_asked_for_is_ray_s_to_find(
    noted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        assert address_to_join() is None
    with pytest.raises(InputError, match="RAY_ADDRESS is .* no Ray answers there"):
        address_to_join()
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert address_to_join() is None
