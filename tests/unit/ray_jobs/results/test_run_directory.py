"""A run directory counts when its manifest says that every byte is there."""

from pathlib import Path

import pytest

from data.errors import CorruptFileError
from data.storage import Store
from ray_jobs.results.run_directory import (
    MANIFEST,
    drop_manifest,
    fetch,
    is_complete,
    verify,
    write_manifest,
)

ABOUT = {"seed": 1, "sizes": (2, 3)}


@pytest.fixture
def run(tmp_path: Path) -> Store:
    store = Store.open(str(tmp_path / "run"))
    store.write_bytes("sae_final.pt", b"weights")
    store.write_bytes("classifiers/raw/config.json", b"{}")
    store.write_bytes("checkpoints/a/b", b"not a result")
    store.write_bytes("cache/x", b"not a result")
    write_manifest(store, ABOUT)
    return store


def test_the_manifest_lists_the_results_alone(run: Store):
    assert set(run.read_json(MANIFEST)["files"]) == {"sae_final.pt", "classifiers/raw/config.json"}
    assert verify(run) == 2
    assert is_complete(run, ABOUT)


def test_another_run_or_none_is_not_whole(run: Store, tmp_path: Path):
    assert not is_complete(run, {**ABOUT, "seed": 2})
    assert not is_complete(Store.open(str(tmp_path / "empty")), ABOUT)


def test_what_a_run_found_out_on_the_way_is_no_other_run(run: Store):
    write_manifest(run, {**ABOUT, "trained_by": ["abc"]})
    assert is_complete(run, ABOUT)


def test_files_of_strangers_are_not_sealed(run: Store):
    for name in ("thesis.doc", "classifiers.txt", "classifiers/raw/deep/er", "sae_epoch_9.pt"):
        run.write_bytes(name, b"1")
    write_manifest(run, ABOUT, ["sae_final.pt", "sae_epoch_1.pt", "classifiers/"])
    assert set(run.read_json(MANIFEST)["files"]) == {
        *("sae_final.pt", "classifiers/raw/config.json", "classifiers/raw/deep/er")
    }


def test_a_run_whose_results_change_is_not_whole(run: Store):
    drop_manifest(run)
    drop_manifest(run)
    assert not is_complete(run, ABOUT) and run.exists("sae_final.pt")


@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_damage_is_found(run: Store, damage: str):
    if damage == "altered":
        run.write_bytes("sae_final.pt", b"weighty")
    else:
        run.delete("sae_final.pt")
    assert not is_complete(run, ABOUT)
    with pytest.raises(CorruptFileError, match=r"sae_final\.pt"):
        verify(run)


HASH = "0" * 64


@pytest.mark.parametrize(
    "content",
    [
        *("[]", "{}", "null", "3", "{", "[" * 5000, '{"files": [], "run": {}}'),
        '{"files": {"a": {"size_bytes": 1}}, "run": {}}',
        f'{{"files": {{"a": {{"size_bytes": true, "sha256": "{HASH}"}}}}, "run": {{}}}}',
        '{"files": {"a": {"size_bytes": 1, "sha256": "?"}}, "run": {}}',
        f'{{"files": {{"../x": {{"size_bytes": 1, "sha256": "{HASH}"}}}}, "run": {{}}}}',
        f'{{"files": {{"a/../../x": {{"size_bytes": 1, "sha256": "{HASH}"}}}}, "run": {{}}}}',
        f'{{"files": {{"/x": {{"size_bytes": 1, "sha256": "{HASH}"}}}}, "run": {{}}}}',
        f'{{"files": {{"a": {{"size_bytes": 1, "sha256": "{HASH}"}}}}, "run": null}}',
    ],
)
def test_a_manifest_that_is_none_is_one_line_and_makes_nothing(
    run: Store, tmp_path: Path, content: str
):
    run.write_bytes(MANIFEST, content.encode())
    assert not is_complete(run, ABOUT)
    for use in (verify, lambda run: fetch(run, ["classifiers/"], tmp_path / "out")):
        with pytest.raises(CorruptFileError) as caught:
            use(run)
        assert MANIFEST in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_manifest_without_a_file_is_no_complete_run(run: Store):
    run.write_json(MANIFEST, {"files": {}, "run": {"seed": 1, "sizes": [2, 3]}})
    assert not is_complete(run, ABOUT)
    with pytest.raises(CorruptFileError, match="lists no file"):
        verify(run)
