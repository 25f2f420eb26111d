"""Plans, shards and sets: which rows lie where, what is refused, what is read back."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.errors import CorruptFileError, DataError, NonFiniteError
from data.storage import Store
from ray_jobs.activations.harvester import ShardTask, commit_shard, make_shard, plan_rows
from ray_jobs.activations.host_model import HostModel
from ray_jobs.activations.manifest import MANIFEST_NAME, SetSpec, shard_name
from ray_jobs.activations.shards import ActivationSet, ShardFiles
from ray_jobs.activations.tokens import TokenizedText
from tests.activation_sets import finish_set, numbered_rows, row_numbers, save_set
from tests.hosts import save_tiny_llama

SIZES = [3, 0, 0, 25, 1, 1, 8, 0]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "set"))


@pytest.fixture
def numbered_set(store: Store) -> ActivationSet:
    return save_set(store, numbered_rows(SIZES), 8, len(SIZES))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> HostModel:
    return HostModel(str(save_tiny_llama(tmp_path_factory.mktemp("host"), window=32)), 2)


def words(texts: list[str]) -> list[TokenizedText]:
    """A tokenizer of one row per character."""
    return [
        TokenizedText(
            np.zeros(len(text), dtype=np.int64),
            np.arange(len(text)),
            np.array([(i, i + 1) for i in range(len(text))], dtype=np.int32).reshape(-1, 2),
            [],
        )
        for text in texts
    ]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 50))
def test_plan_gives_every_row_to_one_shard(sizes: list[int], shard_rows: int) -> None:
    if not any(sizes):
        sizes[0] = 1
    expected = [(doc, row) for doc, size in enumerate(sizes) for row in range(size)]
    plan = plan_rows(["x" * size for size in sizes], words, shard_rows)
    found = []
    for index in range(plan.n_shards):
        shard = plan.shard(index)
        documents = range(shard.first_document, shard.stop_document)
        rows = [(doc, row) for doc in documents for row in range(sizes[doc])]
        found += rows[shard.skip : shard.skip + shard.rows]
        assert shard.rows == shard_rows or index == plan.n_shards - 1
        assert sizes[shard.first_document] and sizes[shard.stop_document - 1]
    assert found == expected


def test_plan_needs_a_token() -> None:
    with pytest.raises(DataError, match="no activations to harvest: 2 documents"):
        plan_rows(["", ""], words, 8)
    with pytest.raises(DataError, match="no activations to harvest: 0 documents"):
        plan_rows([], words, 8)


def test_shards_hold_the_models_rows(model: HostModel, store: Store) -> None:
    """However documents are cut: the same activations, documents and offsets."""
    texts = ["born in a street", "", "x", "writes to a friend today " * 8, "a"]
    plan = plan_rows(texts, model.tokenize, 10)
    assert plan.n_shards == 5
    records = []
    for index in range(plan.n_shards):
        shard = plan.shard(index)
        task = ShardTask(shard, texts[shard.first_document : shard.stop_document])
        records.append(make_shard(model, store, task))
    harvested = finish_set(store, records, 10, len(texts))
    found = harvested.rows(0, harvested.n_rows)
    expected = model.activations(texts)
    tokens = model.tokenize(texts)
    offsets = np.concatenate([text.offsets for text in tokens])
    documents = [number for number, rows in enumerate(expected) for _ in range(len(rows))]
    assert found.document.tolist() == documents
    assert torch.stack([found.start, found.end], dim=1).tolist() == offsets.tolist()
    stored = found.activations.float()
    torch.testing.assert_close(stored, torch.cat(expected), atol=1e-6, rtol=2**-8)
    normal = harvested.normalise(found.activations)
    torch.testing.assert_close(normal.mean(0), torch.zeros(harvested.d_in), atol=1e-5, rtol=0)
    assert float(normal.pow(2).sum(1).mean()) == pytest.approx(harvested.d_in, rel=1e-5)


def test_a_shard_is_the_same_bytes_again(model: HostModel, tmp_path: Path) -> None:
    plan = plan_rows(["born in a street"] * 9, model.tokenize, 20).shard(1)
    texts = ["born in a street"] * (plan.stop_document - plan.first_document)
    records = [
        make_shard(model, Store.open(str(tmp_path / name)), ShardTask(plan, texts))
        for name in ("one", "two")
    ]
    assert records[0] == records[1]


def test_a_shard_of_one_row(model: HostModel, store: Store) -> None:
    plan = plan_rows(["born in a street"], model.tokenize, 3)
    record = make_shard(model, store, ShardTask(plan.shard(1), ["born in a street"]))
    assert (plan.n_rows, record.rows) == (4, 1)


def test_documents_that_do_not_fit_the_plan_are_refused(model: HostModel, store: Store) -> None:
    plan = plan_rows(["born in a street"] * 9, model.tokenize, 20).shard(0)
    with pytest.raises(DataError, match="shard 0: its documents hold .* libraries differ"):
        make_shard(model, store, ShardTask(plan, ["born"]))
    assert store.files() == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_activation_commits_nothing(store: Store, bad: float) -> None:
    rows = numbered_rows(SIZES)
    rows.activations[4, 1] = bad
    with pytest.raises(NonFiniteError, match=r"^document 3 gives a NaN .*\(shard 7, row 4\)"):
        commit_shard(store, 7, rows)
    assert store.files() == []


@pytest.mark.parametrize(("start", "stop"), [(0, 38), (7, 9), (8, 16), (37, 38), (0, 1)])
def test_rows_across_shards(numbered_set: ActivationSet, start: int, stop: int) -> None:
    rows = numbered_set.rows(start, stop)
    assert row_numbers(rows.activations) == list(range(start, stop))
    expected = numbered_rows(SIZES)[start:stop]
    assert rows.document.tolist() == expected.document.tolist()
    assert rows.end.tolist() == expected.end.tolist()


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 3), (0, 39)])
def test_rows_out_of_range(numbered_set: ActivationSet, start: int, stop: int) -> None:
    with pytest.raises(IndexError, match="of 38"):
        numbered_set.rows(start, stop)


@pytest.mark.parametrize(("first", "stop"), [(0, 8), (0, None), (1, 3), (3, 4), (4, 7), (7, 8)])
def test_documents_are_whole_and_in_order(
    numbered_set: ActivationSet, first: int, stop: int | None
) -> None:
    found = {number: len(rows) for number, rows in numbered_set.documents(first, stop)}
    wanted = range(first, len(SIZES) if stop is None else stop)
    assert found == {number: SIZES[number] for number in wanted if SIZES[number]}
    assert list(found) == sorted(found)
    for number, rows in numbered_set.documents(first, stop):
        before = sum(SIZES[:number])
        assert row_numbers(rows.activations) == list(range(before, before + SIZES[number]))


def test_altered_byte_is_found(numbered_set: ActivationSet) -> None:
    path = Path(numbered_set.store.uri.removeprefix("file://")) / shard_name(2)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    numbered_set.rows(0, 16)
    with pytest.raises(CorruptFileError, match="shard-00002.* is not as it was written: delete"):
        numbered_set.rows(16, 17)
    path.unlink()
    with pytest.raises(CorruptFileError, match="shard-00002.* is missing: .*start the harvest"):
        numbered_set.rows(16, 17)


def test_a_set_counts_only_with_its_manifest(store: Store) -> None:
    commit_shard(store, 0, numbered_rows([3]))
    with pytest.raises(DataError, match="holds no whole activation set: run the harvest"):
        ActivationSet.open(store)
    store.write_json(MANIFEST_NAME, {"format": "another"})
    with pytest.raises(CorruptFileError, match="manifest.json is no raylambda-activations-2"):
        ActivationSet.open(store)


def test_folder_tells_sets_apart() -> None:
    base = {"model": "m", "description": "d", "fingerprint": "f", "layer": 1, "dtype": "float32"}
    base |= {"data_sha256": "s", "shard_rows": 8}
    folders = {
        SetSpec(**{**base, key: value}).folder
        for key, value in [
            ("fingerprint", "g"),
            ("data_sha256", "t"),
            ("shard_rows", 9),
            ("layer", 1),
        ]
    }
    assert len(folders) == 4
    # The place of a model folder does not matter: its fingerprint does.
    assert SetSpec(**{**base, "model": "moved"}).folder == SetSpec(**base).folder


def remote_files(
    numbered_set: ActivationSet, cache: Path, keep: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[ShardFiles, list[str]]:
    """Shard files that treat the set as one in a bucket, and the names they fetch."""
    files = ShardFiles(numbered_set.store, numbered_set.manifest, cache_dir=cache, keep=keep)
    files._is_remote, files._folder = True, cache / "set"
    fetched: list[str] = []
    fetch = Store.fetch

    def counted(store: Store, name: str, *rest: object) -> None:
        fetched.append(name)
        fetch(store, name, *rest)

    monkeypatch.setattr(Store, "fetch", counted)
    return files, fetched


def test_bucket_shards_are_fetched_once_and_bounded(
    numbered_set: ActivationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, fetched = remote_files(numbered_set, tmp_path / "cache", 2, monkeypatch)
    for index in (0, 1, 0, 1):
        files.load(index)
    assert fetched == [shard_name(0), shard_name(1)]
    held = files.load(0)
    for index in (2, 3, 4):
        files.load(index)
    left = sorted(path.name for path in (tmp_path / "cache" / "set").glob("*.safetensors"))
    assert left == [shard_name(3), shard_name(4)]
    assert row_numbers(held.activations) == list(range(8))


def test_spoiled_cache_is_fetched_again(
    numbered_set: ActivationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, fetched = remote_files(numbered_set, tmp_path / "cache", 2, monkeypatch)
    files.load(0)
    (tmp_path / "cache" / "set" / shard_name(0)).write_bytes(b"cut short")
    assert row_numbers(files.load(0).activations) == list(range(8))
    assert fetched == [shard_name(0)] * 2


def test_manifest_is_plain_json(numbered_set: ActivationSet) -> None:
    value = json.loads(json.dumps(numbered_set.manifest.to_json()))
    assert value["n_rows"] == 38 and len(value["shards"]) == 5
    assert type(numbered_set.manifest).from_json(value, "here") == numbered_set.manifest
