"""The command line's own words, before anything is started."""

import pytest

from data.errors import ConfigError
from ray_jobs.waltzrl.config import WaltzConfig
from ray_jobs.waltzrl.datasets.splits import open_prompts
from ray_jobs.waltzrl.recipes import RECIPES
from ray_jobs.waltzrl.train import main, with_environment
from ray_jobs.waltzrl.training.stage import batch_of


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--recipe", "gigantic"], "--recipe: no recipe 'gigantic'; there are toy, demo, llama8b"),
        (["--bach-size", "8"], "--bach-size: unknown flag; did you mean --batch-size?"),
        (["--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["--stage", "4"], "stage: '4' is not one of 1, 2, both"),
        (["--num-workers", "0"], 'num_workers: must be "N" or "LOW-HIGH"'),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(argv: list[str], message: str):
    with pytest.raises(ConfigError) as caught:
        main(argv)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_variables_of_the_environment_are_flags_that_flags_override():
    environment = {"WALTZRL_EPOCHS": "3", "WALTZRL_BATCH_SIZE": "64", "WALTZRL_OTHER": "1"}
    flags = with_environment(["--epochs", "7", "--gpus", "8"], environment)
    assert flags == [
        "--epochs=3",
        "--batch-size=64",
        "--epochs",
        "7",
        "--use-gpu",
        "--num-workers",
        "8",
    ]
    assert with_environment(["--gpus=2"], {}) == ["--use-gpu", "--num-workers=2"]
    assert with_environment(["--resume-from", "s3://b/r?x=1"], {}) == ["--storage", "s3://b/r?x=1"]
    assert with_environment(["--resume-from=s3://b?x=1"], {}) == ["--storage=s3://b?x=1"]


@pytest.mark.parametrize("name", ["toy", "demo"])
def test_the_embedded_recipes_have_prompts_and_a_cadence_that_comes(name: str):
    config = RECIPES[name]()
    prompts = open_prompts(config)
    config.check_cadence(len(prompts.train))
    assert len(prompts.test) == config.test_prompts
    assert {p.kind for p in prompts.train} == {"harmful", "overrefusal"}
    assert not {p.text for p in prompts.train} & {p.text for p in prompts.test}


def test_more_test_prompts_than_there_are_is_one_line():
    with pytest.raises(ConfigError, match="test_prompts: test has"):
        open_prompts(WaltzConfig(test_prompts=50_000))


def test_batches_are_a_function_of_seed_and_step():
    prompts = open_prompts(WaltzConfig()).train
    epoch = [p for step in range(12) for _, p in batch_of(prompts, 300, step, 0)]
    assert len({p.text for p in epoch}) == 3600
    again = [p for _, p in batch_of(prompts, 300, 13, 0)]
    assert again != epoch[:300] and batch_of(prompts, 300, 0, 1) != batch_of(prompts, 300, 0, 0)
    assert [sample for sample, _ in batch_of(prompts, 300, 5, 0)] == list(range(300))
