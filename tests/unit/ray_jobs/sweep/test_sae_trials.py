"""What a trial of an SAE sweep trains, and the quick probe it may be judged by."""

from dataclasses import replace

import pytest
import torch

from data.errors import ConfigError
from ray_jobs.sae import sweep as sae_sweep
from ray_jobs.sae.config import demo
from ray_jobs.sae.model import TopKSAE
from ray_jobs.sae.probe import LabelledTokens, ProbeData, probe_metrics
from ray_jobs.sae.search_space import trial_config
from ray_jobs.sweep.config import SweepConfig

SWEEP = SweepConfig(space="k=1,2", metric="probe_f1", checks=18)
TOKENS = 400 * 1024


@pytest.mark.parametrize("batch_size", [256, 1024, 3000])
def test_trials_see_the_same_tokens_in_the_same_number_of_checks(batch_size):
    config = trial_config(demo(), {"batch_size": batch_size}, TOKENS, SWEEP)
    assert abs(config.max_steps * batch_size - TOKENS) < batch_size
    n_checks = -(-config.max_steps // config.eval_every_steps)
    assert 16 <= n_checks <= 18
    numbers = [
        18 * min(check * config.eval_every_steps, config.max_steps) // config.max_steps
        for check in range(1, n_checks + 1)
    ]
    assert numbers == sorted(set(numbers)) and numbers[-1] == 18


def test_the_plateau_rule_waits_for_as_many_tokens_as_the_recipes():
    base = demo()
    config = trial_config(base, {"batch_size": 512}, TOKENS, SWEEP)
    waited = config.early_stopping_patience * config.eval_every_steps * 512
    wanted = base.early_stopping_patience * base.eval_every_steps * base.batch_size
    assert wanted <= waited < wanted + config.eval_every_steps * 512
    assert config.early_stopping_metric == "probe_f1"


def test_a_short_trial_still_warms_up():
    config = trial_config(demo(), {"batch_size": 8192}, 10 * 8192, SWEEP)
    assert config.max_steps == 10 and config.warmup_steps == 9


def test_a_point_that_the_config_refuses_is_refused():
    with pytest.raises(ConfigError, match="k: 9999 is more than n_latents"):
        trial_config(demo(), {"k": 9999}, TOKENS, SWEEP)


def tokens(n: int, seed: int, telling: bool = True) -> LabelledTokens:
    """Rows of 32 random directions; the first stands for personal data where `telling`."""
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(n, 32, generator=generator) < 0.1
    directions = torch.eye(32)[:, :24] + 0.05
    rows = active.float() @ directions + 0.01 * torch.randn(n, 24, generator=generator)
    column = active[:, 0] if telling else torch.rand(n, generator=generator) < 0.1
    return LabelledTokens(rows, column)


def sae() -> TopKSAE:
    return TopKSAE(24, 128, 8, seed=0)


def test_the_probe_finds_what_is_there_and_not_what_is_not():
    found = probe_metrics(sae(), ProbeData(tokens(800, 0), tokens(800, 1)))
    assert found["validation_f1"] > 0.9 and found["probe_f1"] > 0.7
    noise = probe_metrics(sae(), ProbeData(tokens(800, 0, False), tokens(800, 1, False)))
    assert max(noise.values()) < 0.35


def test_the_probe_is_deterministic_and_leaves_the_sae_alone():
    model, data = sae(), ProbeData(tokens(500, 0), tokens(500, 1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert probe_metrics(model, data) == probe_metrics(model, data)
    for name, value in model.state_dict().items():
        assert torch.equal(before[name], value)


def test_a_limit_without_a_price_is_refused_before_anything_starts():
    with pytest.raises(ConfigError, match="max_cost_cents: needs the price of a node"):
        sae_sweep.main(["--max-cost-usd", "5"])


def test_an_f1_is_no_metric_of_a_single_training():
    from ray_jobs.runtime.options import JobOptions
    from ray_jobs.sae.job import train_sae

    config = replace(demo(), early_stopping_metric="probe_f1")
    with pytest.raises(ConfigError, match="early_stopping_metric: probe_f1 is measured in sweeps"):
        train_sae(config, None, JobOptions())
