"""Configs that cannot work name their field before anything starts."""

import pytest

from data.errors import ConfigError
from ray_jobs.waltzrl.config import WaltzConfig
from ray_jobs.waltzrl.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_build(name: str):
    assert isinstance(RECIPES[name](), WaltzConfig)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stage", "3"),
        ("zero_stage", 4),
        ("dtype", "float16"),
        ("learning_rate", 0.0),
        ("batch_size", 0),
        ("batch_size", 1.5),
        ("beta", -0.1),
        ("temperature", 0),
        ("max_rounds", 0),
        ("model", " "),
        ("max_steps", 0),
    ],
)
def test_a_value_out_of_range_names_its_field(field: str, value: object):
    with pytest.raises(ConfigError) as caught:
        WaltzConfig(**{field: value})
    assert str(caught.value).startswith(f"{field}: ")


def test_bfloat16_needs_a_zero_stage_with_masters():
    with pytest.raises(ConfigError, match="^zero_stage: 0 keeps no float32 masters"):
        WaltzConfig(dtype="bfloat16")
    WaltzConfig(dtype="bfloat16", zero_stage=1)


def test_an_interval_that_never_comes_is_refused_with_the_numbers():
    # 15,015 prompts in batches of 256 are 58 steps an epoch, 290 in five.
    config = WaltzConfig(batch_size=256, epochs=5, stage="2", checkpoint_every_steps=1000)
    with pytest.raises(ConfigError) as caught:
        config.check_cadence(15_015)
    assert "checkpoint_every_steps: 1000 steps would never come" in str(caught.value)
    assert "290 steps (15,015 training prompts in batches of 256" in str(caught.value)
    WaltzConfig(batch_size=256, stage="2", checkpoint_every_steps=290).check_cadence(15_015)


def test_validation_that_never_comes_is_refused_too():
    config = WaltzConfig(batch_size=256, checkpoint_every_steps=50, eval_every_steps=500)
    with pytest.raises(ConfigError, match="eval_every_steps"):
        config.check_cadence(15_015)


def test_more_prompts_than_there_are_is_refused():
    with pytest.raises(ConfigError, match="batch_size: 256 is more than the 20 training prompts"):
        WaltzConfig(batch_size=256).planned_steps(2, 20)


def test_steps_of_the_stages():
    config = WaltzConfig(batch_size=10, epochs=3, stage1_steps=7)
    assert config.stages == (1, 2)
    assert (config.planned_steps(1, 105), config.planned_steps(2, 105)) == (7, 30)
    assert WaltzConfig(batch_size=10, epochs=3, max_steps=4).planned_steps(2, 105) == 4


def test_ten_times_the_cited_learning_rate_gets_a_warning_with_its_source():
    plan = WaltzConfig(model="meta-llama/Llama-3.1-8B-Instruct", learning_rate=5e-6)
    assert "2510.08240" in plan.warnings()[-1] and "10 times" in plan.warnings()[-1]
    cited = WaltzConfig(model=plan.model, learning_rate=5e-7)
    assert not any("2510.08240" in warning for warning in cited.warnings())


def test_one_judge_for_rewards_and_figures_is_said():
    assert "also judges the held-out answers (rules)" in WaltzConfig().warnings()[0]
    other = WaltzConfig(eval_judge="wildguard@http://judge:8000/v1@allenai/wildguard")
    assert not other.warnings()


def test_the_embedded_world_and_real_models_do_not_mix():
    with pytest.raises(ConfigError, match="^train_judge: rules knows the embedded world only"):
        WaltzConfig(data="prompts.jsonl").check_world()
    served = WaltzConfig(data="prompts.jsonl", train_judge="wildguard@http://judge/v1@w")
    with pytest.raises(ConfigError, match="^eval_judge: rules knows"):
        served.check_world()
    with pytest.raises(ConfigError, match="^data: waltz-world has invented rules"):
        RECIPES["llama8b"]().check_world()
    WaltzConfig().check_world()
