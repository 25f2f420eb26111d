"""Hosts with planted attention sinks, from texts to the rows that a training sees."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2Model

from data.storage import Store
from ray_jobs.activations.harvester import ShardTask, make_shard, plan_rows
from ray_jobs.activations.host_model import HostModel
from ray_jobs.activations.shards import ActivationSet
from ray_jobs.activations.stream import ActivationStream
from ray_jobs.pii.features import read_tokens
from ray_jobs.sae.measure import held_out_share
from tests.activation_sets import finish_set
from tests.hosts import save_tiny_llama

TEXTS = [f"writes to a friend{' today' * (i % 7)}, born in a street" for i in range(30)]


def delimiter_sink(folder: Path) -> Path:
    """A tiny Llama for which every comma is a sink."""
    save_tiny_llama(folder)
    comma = HostModel(str(folder), 1).tokenize([","])[0].input_ids.tolist()
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][comma] *= 400
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def first_position_sink(folder: Path) -> Path:
    """A tiny GPT-2 without BOS, as GPT-2, Qwen and SmolLM2 are: the first token is a sink."""
    save_tiny_llama(folder)
    torch.manual_seed(0)
    model = GPT2Model(
        GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=64, vocab_size=400)
    ).eval()
    with torch.no_grad():
        model.wte.weight.mul_(20)
        model.wpe.weight[0] = torch.randn(32) * 60
    model.save_pretrained(folder)
    tokenizer = (folder / "tokenizer.json").read_text()
    begin = tokenizer.index('"post_processor":')
    end = tokenizer.index('"decoder":')
    (folder / "tokenizer.json").write_text(
        tokenizer[:begin] + '"post_processor": null,\n  ' + tokenizer[end:]
    )
    return folder


def harvested(host: Path, store: Store, texts: list[str], shard_rows: int = 64) -> ActivationSet:
    model = HostModel(str(host), 2)
    plan = plan_rows(texts, model.tokenize, shard_rows)
    records = []
    for index in range(plan.n_shards):
        shard = plan.shard(index)
        task = ShardTask(shard, texts[shard.first_document : shard.stop_document], tuple(texts))
        records.append(make_shard(model, store, task))
    return finish_set(store, records, shard_rows, len(texts))


@pytest.fixture(params=[delimiter_sink, first_position_sink])
def planted(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ActivationSet, torch.Tensor]:
    """A set, and which of its rows are the planted sinks."""
    host = request.param(tmp_path / "host")
    found = harvested(host, Store.open(str(tmp_path / "set")), TEXTS)
    rows = found.rows(0, found.n_rows)
    if request.param is first_position_sink:
        return found, torch.cat([torch.tensor([True]), rows.document.diff() != 0])
    commas = [TEXTS[d][s:e] for d, s, e in zip(rows.document, rows.start, rows.end, strict=True)]
    return found, torch.tensor([text == "," for text in commas])


def test_planted_sinks_are_counted_and_leave_mean_and_scale_alone(planted) -> None:
    found, sinks = planted
    rows = found.rows(0, found.n_rows)
    assert rows.sink.tolist() == sinks.tolist()
    assert found.manifest.n_sinks == int(sinks.sum()) == len(TEXTS)
    first = torch.cat([torch.tensor([True]), rows.document.diff() != 0])
    assert found.manifest.n_first_sinks == int((first & sinks).sum())
    ordinary = rows.activations[~sinks].float()
    torch.testing.assert_close(found.mean, ordinary.mean(0), atol=1e-4, rtol=1e-4)
    power = found.normalise(ordinary).square().sum(1).mean()
    assert power.item() == pytest.approx(found.d_in, rel=1e-3)
    assert f"{len(TEXTS)} of {found.n_rows} tokens" in found.sinks_in_words
    assert found.sink_rule.is_sink(rows.activations).tolist() == sinks.tolist()


def test_a_training_and_its_checks_see_every_ordinary_row_and_no_sink(planted) -> None:
    found, sinks = planted
    n = int((~sinks).sum())
    stream = ActivationStream(found, batch_size=n, window_shards=2, seed=3)
    batch = stream.batch(0)
    stream.close()
    expected = found.normalise(found.rows(0, found.n_rows).activations[~sinks])
    assert batch.shape == expected.shape
    torch.testing.assert_close(batch.sum(0), expected.sum(0), atol=1e-2, rtol=1e-3)
    largest = expected.norm(dim=1).max().item()
    assert batch.norm(dim=1).max().item() == pytest.approx(largest, rel=1e-5)
    parts = [held_out_share(found, found, rank, 3) for rank in range(3)]
    torch.testing.assert_close(torch.cat(parts), expected)


def test_the_classifiers_keep_a_row_for_every_token(planted) -> None:
    found, sinks = planted
    tokens = read_tokens(found, 0, len(TEXTS))
    assert len(tokens) == len(sinks)
    rule = tokens.sink_rule()
    assert rule is not None and rule.is_sink(tokens.activations).tolist() == sinks.tolist()
    flat = rule.with_sinks_at_centre(tokens.activations)
    assert torch.equal(flat[~sinks], tokens.activations[~sinks])
    assert flat.float().norm(dim=1).max() < tokens.activations.float().norm(dim=1).max() / 5


def test_a_shard_of_the_last_tokens_alone_goes_by_the_whole_sample(tmp_path: Path) -> None:
    host = delimiter_sink(tmp_path / "host")
    model = HostModel(str(host), 2)
    plan = plan_rows([",", *TEXTS], model.tokenize, 64).shard(0)
    task = ShardTask(replace(plan, stop=1, stop_document=1), [","], tuple(TEXTS))
    record = make_shard(model, Store.open(str(tmp_path / "set")), task)
    assert (record.rows, record.sinks, record.first_sinks) == (1, 1, 1)


def test_a_host_without_sinks_has_none(tmp_path: Path) -> None:
    host = save_tiny_llama(tmp_path / "host")
    found = harvested(host, Store.open(str(tmp_path / "set")), TEXTS)
    assert found.manifest.n_sinks == 0 and found.sink_rule is None
