"""The entry points' own words for a user's mistakes, before anything is started."""

import pytest

from data.errors import ConfigError, InputError
from ray_jobs import pipeline
from ray_jobs.demo import __main__ as demo
from ray_jobs.pii import train as pii_train
from ray_jobs.runtime.fit import connect
from ray_jobs.sae import train as sae_train

MAINS = [pipeline.main, sae_train.main, pii_train.main]


@pytest.mark.parametrize("main", MAINS, ids=["pipeline", "sae", "pii"])
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--recipe", "gigantic"], "--recipe: no recipe 'gigantic'; there are demo, small"),
        (["--sede", "1"], "--sede: unknown flag; did you mean --seed?"),
        (["--layer", "three"], "argument --layer: invalid int value: 'three'"),
        (["--test-data", "x.jsonl"], "test_data: needs --data; give both"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(main, argv, message):
    with pytest.raises(InputError) as caught:
        main(argv)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--k", "9999"], "k: 9999 is more than n_latents"),
        (["--num-workers", "two"], 'num_workers: must be "N" or "LOW-HIGH"'),
        (["--num-workers", "4-2"], 'num_workers: must be "N" or "LOW-HIGH"'),
        (["--max-failures", "-1"], "max_failures: -1 is out of range: give at least 0"),
    ],
)
def test_a_value_out_of_range_names_its_field(argv, message):
    with pytest.raises(ConfigError) as caught:
        pipeline.main(argv)
    assert str(caught.value).startswith(message)


def test_no_ray_where_any_will_do_is_one_line(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")

    def nowhere(*_, **__):
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr("ray.init", nowhere)
    with pytest.raises(InputError, match="RAY_ADDRESS is 'auto', and no Ray answers there"):
        connect()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", r"no Ray answers there \(.*Connection refused\): give the head's"),
        ("ray://127.0.0.1:1", "Connection refused"),
        ("head", "it names no port"),
    ],
)
def test_a_wrong_address_of_ray_is_one_line_at_once(monkeypatch, address, message):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=message) as caught:
        connect()
    assert f"RAY_ADDRESS is {address!r}" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "place"),
    [
        (["--local"], demo.RUNS / "demo"),
        (["--output-dir", "mine"], "{here}/mine"),
        (["--output-dir=s3://bucket/mine"], "s3://bucket/mine"),
    ],
)
def test_the_demo_hands_its_job_a_place_that_outlives_it(monkeypatch, tmp_path, flags, place):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")
    monkeypatch.chdir(tmp_path)
    handed: list[list[str]] = []
    monkeypatch.setattr(demo, "_on_local_ray", handed.append)
    demo.main(flags)
    assert pipeline.parse(handed[0])[0][3].output_dir == str(place).format(here=tmp_path)


def test_every_recipe_builds_and_full_is_the_llama():
    for name in pipeline.DATA_RECIPES:
        sae, _, _, _ = pipeline.recipe(name)
        assert sae.k <= sae.n_latents
    full = pipeline.recipe("full")[0]
    assert (full.model, full.layer, full.n_latents, full.k, full.learning_rate, full.epochs) == (
        *("meta-llama/Llama-3.1-8B", 12, 32768, 64, 1e-3, 3),
    )


def test_passes_of_the_sae_and_of_the_probes_are_said_apart():
    (sae, probe, _, _), _ = pipeline.parse(["--epochs", "9", "--probe-epochs", "2"])
    assert (sae.epochs, probe.epochs) == (9, 2)
