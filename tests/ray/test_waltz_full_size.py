"""The recipe for eight H100, to the last step before weights: its flags, its ZeRO, its prompts and
judges, on a model of the same architecture that fits on a laptop."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ray_jobs.waltzrl import evaluate
from ray_jobs.waltzrl.evaluation.rows import TITLES
from ray_jobs.waltzrl.train import main
from tests.ray.small_llama import save_small_llama

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(900),
    # DeepSpeed uses what PyTorch 2.13 deprecates.
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning"),
]
ACTS = ("open", "close", "paint", "carry", "mend", "sell", "draw", "wash")
THINGS = ("door", "kite", "lamp", "boat", "drum", "vase", "sled", "coat", "harp", "desk")
REPLIES = {
    "wildguard": "Harmful request: yes\nResponse refusal: no\nHarmful response: {}",
    "llama-guard": "{}",
}


@pytest.fixture
def judges() -> Iterator[tuple[str, list[tuple[str, list[dict[str, str]]]]]]:
    """An OpenAI-compatible server of both judge models, and what it was asked.

    It finds every second answer harmful, by the answer's length."""
    asked: list[tuple[str, list[dict[str, str]]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((body["model"], body["messages"]))
            odd = len(body["messages"][-1]["content"]) % 2
            verdict = (
                ("no", "yes")[odd] if body["model"] == "wildguard" else ("safe", "unsafe")[odd]
            )
            content = REPLIES[body["model"]].format(verdict)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"message": {"content": content}}]}).encode())

        def log_message(self, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    server.shutdown()
    thread.join()
    server.server_close()


def prompts_file(folder: Path) -> Path:
    rows = [
        {
            "prompt": f"how do i {act} a {thing} that was {other}ed",
            "expected_category": ("unsafe", "overrefusal", "safe")[index % 3],
        }
        for index, (act, thing, other) in enumerate(
            (a, t, o) for a in ACTS for t in THINGS for o in ACTS[:2]
        )
    ]
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def evaluated(run: Path, output: Path) -> dict[str, Any]:
    """What the evaluation's command finds in the run's exported folders."""
    evaluate.main([f"--run-dir={run}", f"--output-dir={output}", "--test-prompts=3"])
    return json.loads((output / "evaluation.json").read_text())


def test_the_full_size_recipe_takes_both_stages_and_exports(judges, tmp_path: Path, capsys):
    url, asked = judges
    folder, output = tmp_path / "llama", tmp_path / "run"
    save_small_llama(folder)
    argv = [
        *("--recipe=llama8b", f"--model={folder}", f"--data={prompts_file(tmp_path)}"),
        *(
            f"--train-judge=wildguard@{url}@wildguard",
            f"--eval-judge=llama-guard@{url}@llama-guard",
        ),
        *("--batch-size=4", "--gradient-accumulation=2", "--stage1-steps=1", "--max-steps=1"),
        *("--checkpoint-every-steps=1", "--eval-every-steps=1"),
        *("--max-answer-tokens=8", "--max-feedback-tokens=8"),
        *("--validation-prompts=3", "--test-prompts=3"),
        *("--num-workers=2", "--no-use-gpu", "--cpus-per-worker=1", f"--output-dir={output}"),
    ]
    main([*argv, "--dry-run"])
    assert "ZeRO 3, bfloat16" in capsys.readouterr().out and not output.exists()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    main(argv)  # which ends Ray
    histories = json.loads((output / "training_history.json").read_text())
    assert [histories[s]["stopped"]["step"] for s in ("stage_1", "stage_2")] == [1, 1]
    curves = histories["stage_2"]["curves"]
    # Random weights write no JSON: every feedback earns the same nothing, answers do not.
    assert curves["gradient_norm_feedback"][0] == 0 < curves["gradient_norm_conversation"][0]
    for agent in ("conversation", "feedback"):
        assert 4 <= curves[f"tokens_{agent}"][0] <= 32
        assert curves[f"drift_{agent}"][0] < 0.05  # bfloat16: sampling against training
        model = AutoModelForCausalLM.from_pretrained(output / agent)
        assert model.config.num_key_value_heads == 2
        assert AutoTokenizer.from_pretrained(output / agent).chat_template
    trained, base = (load_file(f / "model.safetensors") for f in (output / "conversation", folder))
    name = "model.layers.1.mlp.up_proj.weight"
    moved = (trained[name] - base[name].float()).abs().max().item()
    assert trained[name].dtype == torch.float32 and 0 < moved < 1e-5  # one step at 5e-7
    rows = evaluated(output, tmp_path / "evaluation")
    assert set(rows) == set(TITLES) - {"single_rl"}  # the recipe trains none
    assert {model for model, _ in asked} == {"wildguard", "llama-guard"}
    conversation = next(messages for model, messages in asked if model == "llama-guard")
    assert [each["role"] for each in conversation] == ["user", "assistant"]
    assert "how do i" in conversation[0]["content"]
