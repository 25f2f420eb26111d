"""What a run would take, told before anything is loaded."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from data.errors import ConfigError, DataError
from ray_jobs.waltzrl.planning.cost import Rates, Work, cost_cents, hours
from ray_jobs.waltzrl.planning.memory import (
    Buckets,
    ModelShape,
    Setting,
    memory_plan,
    shape_of_config,
)
from ray_jobs.waltzrl.train import main

TEN = ModelShape(
    parameters=1_000,
    largest_tensor=100,
    layers=2,
    hidden=8,
    intermediate=20,
    attention=8,
    key_value=4,
    vocabulary=50,
)
SETTING = Setting(
    shape=TEN,
    workers=4,
    zero_stage=3,
    weight_bytes=2,
    offload_optimizer=False,
    checkpointing=False,
    trained_agents=2,
    frozen_agents=2,
    part_rows=1,
    parts=8,
    rollout_rows=3,
    prompt_tokens=10,
    action_tokens=5,
    buckets=Buckets(reduce=60, live=300, sub_group=200),
)
LLAMA_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}


def test_what_stays_by_zero_stage():
    plans = {stage: memory_plan(replace(SETTING, zero_stage=stage)) for stage in range(4)}
    assert [plans[stage].weights for stage in range(4)] == [4_000, 4_000, 4_000, 1_000]
    assert [plans[stage].references for stage in range(4)] == [4_000, 4_000, 4_000, 1_000]
    # Two agents: Adam's moments whole; masters and moments of a quarter.
    assert [plans[stage].optimizer for stage in range(4)] == [16_000, 6_000, 6_000, 6_000]
    assert plans[3].gradients == 2 * 2 * (250 + 60)
    assert plans[3].gathered == 2_000 and plans[2].gathered == 0


def test_an_offloaded_optimizer_is_in_host_memory():
    plan, offloaded = memory_plan(SETTING), memory_plan(replace(SETTING, offload_optimizer=True))
    assert offloaded.optimizer == 0 and offloaded.host == plan.optimizer and plan.host == 0
    assert offloaded.peak < plan.peak


def test_the_phases_of_a_step():
    plan = memory_plan(SETTING)
    assert plan.kv_cache == 3 * 15 * 2 * 2 * 4 * 2
    assert plan.logits == 16 * 1 * 5 * 50
    assert plan.peak == plan.always + max(plan.rollout, plan.update)
    more = memory_plan(replace(SETTING, part_rows=2))
    assert (more.activations, more.logits) == (2 * plan.activations, 2 * plan.logits)
    saved = memory_plan(replace(SETTING, checkpointing=True))
    assert saved.activations < plan.activations
    assert memory_plan(replace(SETTING, rollout_rows=300)).peak > plan.peak


def test_a_shape_is_that_of_the_model():
    config = LlamaConfig(
        vocab_size=100,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=True,
    )
    model, shape = LlamaForCausalLM(config), shape_of_config(config)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.largest_tensor == 1600
    assert (shape.attention, shape.key_value) == (32, 16)


def test_hours_and_dollars():
    work = Work(
        steps={1: 10, 2: 20},
        batch_size=4,
        answer_tokens=5,
        feedback_tokens=3,
        rounds=1,
        prompt_tokens=7,
        held_out_dialogues=100,
        checkpointing=False,
    )
    assert work.dialogue_tokens == 13
    assert work.generated == 4 * 30 * 13 + 1300
    assert work.passes == 4 * (10 * 15 + 20 * (15 + 20)) * 5
    rates = Rates(rollout=2860 / 3600, passes=work.passes / 3600, source="")
    assert hours(work, rates, workers=2) == pytest.approx(1.0)
    assert cost_cents(1.0, 3192, machines=2) == 6384
    assert cost_cents(0.001, 100, machines=1) == 1  # rounded up


def folder_of(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    return str(tmp_path)


def prompts_file(tmp_path: Path) -> str:
    """As many different prompts as the plan of eight H100s speaks of."""
    rows = [
        {
            "prompt": f"how do i {'abcdefgh'[i % 8]}{'qrstuvwx'[i // 8 % 8]}"
            f"{'ijklmnop'[i // 64 % 8]} the {'stuvwxyz'[i // 512]} thing",
            "expected_category": ("unsafe", "overrefusal")[i % 2],
        }
        for i in range(4096)
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def llama8b(tmp_path: Path, *more: str) -> list[str]:
    judges = ["--train-judge=wildguard@http://j/v1@w", "--eval-judge=llama-guard@http://j/v1@g"]
    given = [f"--model={folder_of(tmp_path)}", f"--data={prompts_file(tmp_path)}", *judges]
    return ["--recipe=llama8b", "--gpus=8", *given, "--dry-run", "--json", *more]


def test_eight_billion_parameters_are_planned_from_a_config_alone(tmp_path: Path, capsys):
    main(llama8b(tmp_path, "--stage1-steps=50", "--checkpoint-every-steps=20", "--epochs=3"))
    shown = capsys.readouterr().out
    plan = json.loads(shown.splitlines()[-1])
    assert plan["parameters"] == 8_030_261_248
    assert 40e9 < plan["memory_bytes"]["peak"] < 80e9 and "fits" in shown
    assert plan["peak_bytes_by_zero_stage"]["2"] > 80e9
    an_agent = 12 * 8_030_261_248
    checkpoint = plan["checkpoint_bytes"]
    assert (checkpoint["checkpoint"], checkpoint["disk"]) == (2 * an_agent, 3 * an_agent)
    assert checkpoint["memory"] == 4 * an_agent  # an eighth of a checkpoint, twice, eight times
    assert checkpoint["storage"] == 9 * an_agent
    assert "checkpoints of 193 GB; a machine needs 385 GB of host memory, and 289 GB of" in shown
    assert plan["steps"]["1"] == 50 and "not measured" in plan["rates"]
    assert "gpu_8x_h100_sxm5 at $31.92" in plan["price"]
    assert plan["cost_cents"] == pytest.approx(plan["hours"] * 3192, abs=1)
    assert not list(tmp_path.glob("runs"))


def test_rates_and_prices_are_given_by_flags(tmp_path: Path, capsys):
    more = ["--rollout-tokens-per-second=1000", "--train-tokens-per-second=9000"]
    main(llama8b(tmp_path, *more, "--price-cents-per-hour=1000", "--checkpoint-every-steps=20"))
    plan = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert plan["rates"] == "as given" and "$10.00 an hour, as given" in plan["price"]
    with pytest.raises(ConfigError, match="^instance_type: no 'gpu_9x_tpu' .*; it has gpu_"):
        main(llama8b(tmp_path, "--instance-type=gpu_9x_tpu", "--checkpoint-every-steps=20"))


def test_a_server_samples_in_its_own_memory_at_a_speed_of_its_own(tmp_path: Path, capsys):
    servers = ["--conversation-server=vllm@http://h@/c", "--feedback-server=vllm@http://h@/f"]
    main(llama8b(tmp_path, "--rollout=http", *servers, "--checkpoint-every-steps=20"))
    plan = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert plan["memory_bytes"]["kv_cache"] == 0 and plan["hours"] is None
    main(
        llama8b(
            tmp_path,
            "--rollout=http",
            *servers,
            "--checkpoint-every-steps=20",
            "--rollout-tokens-per-second=2000",
        )
    )
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["hours"] > 0


def test_a_cpu_has_no_assumed_rates(capsys):
    main(["--recipe", "toy", "--dry-run"])
    shown = capsys.readouterr().out
    assert "stage 1 60, stage 2 110" in shown and "hours     not known: give" in shown


def test_a_model_whose_shape_is_not_here_is_one_line(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    argv = llama8b(tmp_path, "--model=nobody/nothing", "--checkpoint-every-steps=20")
    with pytest.raises(DataError, match="no config.json here to plan from; run `hf download"):
        main(argv)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "bert"')
    with pytest.raises(DataError, match="config.json gives no model to plan for") as caught:
        main(llama8b(tmp_path, f"--model={broken}", "--checkpoint-every-steps=20"))
    assert "\n" not in str(caught.value)
