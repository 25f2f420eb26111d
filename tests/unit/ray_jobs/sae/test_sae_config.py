"""SAEConfig: every field checked by name, recipes that hold what their names promise."""

import dataclasses
import math
import sys
import typing

import pytest

from data.errors import ConfigError
from ray_jobs.cli import field_groups, parse_recipe
from ray_jobs.sae.config import RECIPES, SAEConfig, full

NUMBERS = [
    name
    for name, hint in typing.get_type_hints(SAEConfig).items()
    if hint in (int, float, int | None)
]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layer", -1),
        ("dtype", "float16"),
        ("n_latents", 0),
        ("k", 0),
        ("k", 5000),
        ("aux_k", -1),
        ("aux_weight", -0.1),
        ("dead_after_tokens", 0),
        ("epochs", 0),
        ("max_steps", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("warmup_steps", -1),
        ("clip_norm", 0.0),
        ("seed", -1),
        ("early_stopping_patience", 0),
        ("early_stopping_threshold", 1.5),
        ("early_stopping_metric", "f1"),
        ("eval_every_steps", 0),
        ("checkpoint_every_steps", 0),
        ("checkpoint_every_minutes", 0.0),
        ("keep_checkpoints", 0),
        ("window_shards", 0),
        ("shard_rows", 0),
        ("model", " "),
    ],
)
def test_a_value_out_of_range_names_its_field(field: str, value: object) -> None:
    with pytest.raises(ConfigError) as refusal:
        SAEConfig(**{field: value})
    assert refusal.value.field == field


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("value", ["7", True, math.nan, [1]])
def test_a_number_must_be_a_number(field: str, value: object) -> None:
    with pytest.raises(ConfigError) as refusal:
        SAEConfig(**{field: value})
    assert refusal.value.field == field


def test_a_count_must_be_whole() -> None:
    with pytest.raises(ConfigError, match="epochs: 1.5 is not a whole number"):
        SAEConfig(epochs=1.5)  # type: ignore[arg-type]


def test_k_may_not_exceed_the_latents() -> None:
    with pytest.raises(ConfigError, match=r"k: 65 is more than n_latents \(64\)"):
        SAEConfig(n_latents=64, k=65)
    assert SAEConfig(n_latents=64, k=64).k == 64


def test_the_warm_up_must_end_before_the_steps_do() -> None:
    with pytest.raises(ConfigError) as refusal:
        SAEConfig(warmup_steps=10, max_steps=10)
    assert refusal.value.field == "warmup_steps"


def test_the_full_recipe() -> None:
    config = full()
    assert config.model == "meta-llama/Llama-3.1-8B"
    assert (config.layer, config.dtype, config.n_latents, config.k) == (12, "bfloat16", 32768, 64)
    assert (config.learning_rate, config.clip_norm, config.epochs) == (1e-3, 1.0, 3)


def test_every_recipe_is_valid_and_every_field_documented() -> None:
    assert list(RECIPES) == ["demo", "small", "llm", "full"]
    for recipe in RECIPES.values():
        assert isinstance(recipe(), SAEConfig)
    docs = {name: doc for group in field_groups(SAEConfig).values() for name, doc in group.items()}
    assert all(docs.get(field.name) for field in dataclasses.fields(SAEConfig))


def test_fields_as_flags() -> None:
    recipes = {name: lambda recipe=recipe: (recipe(),) for name, recipe in RECIPES.items()}
    flags = ["--recipe", "small", "--k", "16", "--no-enable-mixed-precision", "--max-steps", "9000"]
    (config,), _ = parse_recipe(flags, "sae", recipes, ("sae",))
    assert (config.k, config.enable_mixed_precision, config.max_steps) == (16, False, 9000)
    with pytest.raises(ConfigError) as refusal:
        parse_recipe(["--k", "100000"], "sae", recipes, ("sae",))
    assert refusal.value.field == "k"


def test_a_config_is_frozen_and_given_by_name() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SAEConfig().k = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        SAEConfig(sys.platform)  # type: ignore[misc]
