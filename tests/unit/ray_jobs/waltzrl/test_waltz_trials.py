"""What a trial of a WaltzRL sweep trains, and the mistakes that a sweep's command line can hold."""

import pytest

from data.errors import ConfigError
from ray_jobs.sweep.config import SweepConfig
from ray_jobs.sweep.plan import make_plan
from ray_jobs.waltzrl.config import PAPER_LEARNING_RATE
from ray_jobs.waltzrl.recipes import RECIPES, toy
from ray_jobs.waltzrl.search_space import job_spec, trial_config
from ray_jobs.waltzrl.sweep import main, recipe

SWEEP = SweepConfig(metric="faults", checks=9)


@pytest.mark.parametrize("batch_size", [32, 100, 1000])
def test_a_trial_has_as_many_checks_as_the_sweep_says_and_saves_at_each(batch_size: int):
    config = trial_config(toy(), {"batch_size": batch_size, "alpha": 0.3}, 4000, SWEEP)
    steps = config.planned_steps(2, 4000)
    assert config.max_steps == steps == min(toy().max_steps or 0, 5 * (4000 // batch_size))
    assert config.checkpoint_every_steps == config.eval_every_steps
    made = -(-steps // config.eval_every_steps)
    numbers = [9 * min(c * config.eval_every_steps, steps) // steps for c in range(1, made + 1)]
    assert numbers == sorted(set(numbers)) and numbers[-1] == 9
    assert config.alpha == 0.3 and config.stage == "both"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--metric", "fvu"], "metric: 'fvu' is not reported; there are faults, asr, orr"),
        (["--space", "alpha=-1,1"], "alpha: -1.0 is out of range"),
        (["--space", "epsilon=0.1,0.2"], "epsilon"),
        (["--max-cost-usd", "5"], "max_cost_cents: needs the price of a node"),
        # The recipe's intervals would be too long for it, but a trial has its own.
        (
            ["--stage1-steps", "10", "--max-steps", "20", "--max-cost-usd", "5"],
            "max_cost_cents: needs the price of a node",
        ),
    ],
)
def test_a_mistake_is_one_line_before_anything_starts(argv: list[str], message: str):
    with pytest.raises(ConfigError) as caught:
        main(argv)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_swept_around_its_own_learning_rate(name: str):
    base, sweep, _ = recipe(name)
    rates = make_plan(job_spec(base, sweep, 4000), sweep).space.dimensions["learning_rate"]
    low, high = rates.ends()
    assert low < base.learning_rate < high
    assert name != "llama8b" or high < 10 * PAPER_LEARNING_RATE
