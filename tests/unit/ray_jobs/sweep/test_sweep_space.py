"""Search spaces in words, and their mistakes."""

import pytest

from data.errors import ConfigError
from ray_jobs.sae import sweep as sae_sweep
from ray_jobs.sae.config import RECIPES, demo
from ray_jobs.sae.search_space import KINDS, SPACES, job_spec
from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.plan import make_plan
from ray_jobs.sweep.search import sample_points
from ray_jobs.sweep.space import Choice, LogRange, parse_space, shown_point

TEXT = "k=16,32 learning_rate=1e-4:1e-2 n_latents=1024:4096"


def plan(**fields):
    config = SweepConfig(**fields)
    return make_plan(job_spec(demo(), config), config)


def test_a_space_is_read_as_written():
    space = parse_space(TEXT, KINDS)
    assert dict(space.dimensions) == {
        "k": Choice((16, 32)),
        "learning_rate": LogRange(1e-4, 1e-2, whole=False),
        "n_latents": LogRange(1024, 4096, whole=True),
    }


def test_points_are_seeded_distinct_and_within_the_space():
    space = parse_space(TEXT, KINDS)
    points = sample_points(space, 200, seed=3)
    assert points == sample_points(space, 200, seed=3)
    assert points != sample_points(space, 200, seed=4)
    assert len({shown_point(point) for point in points}) == 200
    assert {point["k"] for point in points} == {16, 32}
    for point in points:
        assert 1e-4 <= point["learning_rate"] <= 1e-2
        assert 1024 <= point["n_latents"] <= 4096 and type(point["n_latents"]) is int
    low_half = sum(point["learning_rate"] < 1e-3 for point in points)
    assert 70 <= low_half <= 130  # even in the logarithm


def test_every_point_of_a_small_space_is_found():
    space = parse_space("k=1,2,3 batch_size=8,16", KINDS)
    points = sample_points(space, 6, seed=0)
    assert len({(point["k"], point["batch_size"]) for point in points}) == 6


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("", "space: is empty"),
        ("nonsense", "space: no space 'nonsense'; there are default"),
        ("k= learning_rate=1", "space: 'k=' is not a dimension"),
        ("kk=1,2", "space: no field 'kk' may vary; there are k, learning_rate"),
        ("k=1 k=2", "space: k stands in it twice"),
        ("k=1,2,1", "space: k names a value twice"),
        ("k=1.5", "space: k: '1.5' is not a whole number"),
        ("learning_rate=nan,1", "space: learning_rate: 'nan' is not finite"),
        ("learning_rate=1e-2:1e-4", 'space: learning_rate=1e-2:1e-4: write "LOW:HIGH"'),
        ("k=64,128 n_latents=100,4096", "space: contradicts itself at k=128 n_latents=100: k: 128"),
        ("learning_rate=0,1e-3", "space: contradicts itself at learning_rate=0: learning_rate"),
        ("k=16,32,64", "trials: 32 are more than the space has points (3)"),
    ],
)
def test_a_mistaken_space_is_one_line(space, message):
    with pytest.raises(ConfigError) as caught:
        plan(space=space)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_metric_that_the_job_does_not_report_is_refused():
    with pytest.raises(ConfigError, match="metric: 'accuracy' is not reported; there are fvu"):
        plan(metric="accuracy")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trials": 0}, "trials: 0 is out of range: give at least 1"),
        ({"reduction_factor": 1}, "reduction_factor: 1 is out of range: give at least 2"),
        ({"rung_spacing": 1}, "rung_spacing: 1 is out of range: give at least 2"),
        ({"checks": 4, "grace_checks": 5}, "grace_checks: 5 is more than checks"),
        ({"search": "grid"}, "search: 'grid' is not one of random, optuna"),
        ({"scheduler": "pbt"}, "scheduler: 'pbt' is not one of asha, none"),
        ({"max_cost_cents": 0}, "max_cost_cents: 0 is out of range: give at least 1"),
        ({"max_concurrent": 0}, "max_concurrent: 0 is out of range: give at least 1"),
    ],
)
def test_a_mistaken_sweep_names_its_field(fields, message):
    with pytest.raises(ConfigError) as caught:
        SweepConfig(**fields)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("space", SPACES)
def test_the_named_spaces_make_sense_with_every_recipe(name, space):
    config = SweepConfig(space=space)
    assert make_plan(job_spec(RECIPES[name](), config), config).space.dimensions


def test_the_recipe_for_gpus_has_its_own_space():
    assert sae_sweep.recipe("full")[2].space == "full"
    assert sae_sweep.recipe("demo")[2].space == "default"
