"""Where does a WaltzRL step's time go, and how does it compare with TRL's GRPO?

    .venv-peers/bin/python -m benchmarks.waltz_step [--rounds 9]

runs in the peers' environment (benchmarks/requirements-peers.txt), one process with one thread.

1. A stage-2 step of the embedded world's model, batch 32: CPU-seconds by phase.
2. One agent's step against TRL's GRPO without vLLM: the same model, prompts, batch, temperature,
   KL penalty and reward; every reply has the same fixed length (its end token is made impossible
   in the model itself), so that both generate and train exactly the same number of tokens. TRL
   without gradient checkpointing, bf16 and logging, in a process of its own (in ours it would
   find DeepSpeed's process group and wrap its model). They take turns; CPU-seconds are counted.

Prints Markdown.
"""

import argparse
import contextlib
import logging
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("WANDB_MODE", "disabled")
warnings.filterwarnings("ignore")

import torch  # noqa: E402
from transformers import LlamaForCausalLM  # noqa: E402

from data.builders.waltz_world import sample_requests  # noqa: E402
from data.storage import Store  # noqa: E402
from ray_jobs.checkpoint import CheckpointStore  # noqa: E402
from ray_jobs.waltzrl.algorithm.learner import Learner, LossSettings  # noqa: E402
from ray_jobs.waltzrl.algorithm.policy import EngineOptions, Policy, Reference  # noqa: E402
from ray_jobs.waltzrl.algorithm.rewards import (  # noqa: E402
    FeedbackWeights,
    conversation_samples,
    feedback_samples,
)
from ray_jobs.waltzrl.judges.judges import judge_dialogues, rule_judge  # noqa: E402
from ray_jobs.waltzrl.models.world import (  # noqa: E402
    WorldModelSize,
    build_tokenizer,
    build_world_model,
    world_config,
)
from ray_jobs.waltzrl.rollout.dialogue import (  # noqa: E402
    WORLD_TEMPLATES,
    Trajectory,
    converse,
)
from ray_jobs.waltzrl.rollout.hf import HFSampler, Sampling  # noqa: E402

LEARNING_RATE, BETA, BATCH = 1e-4, 0.01, 32
CPU = torch.device("cpu")
SETTINGS = LossSettings(
    beta=BETA, epsilon=0.2, importance_cap=2.0, temperature=1.0, updates=1, parts=1
)
PROMPTS = [
    request.text for request in sample_requests("train", ("harmful", "overrefusal"), 1600, seed=0)
]


@dataclass(frozen=True)
class Shape:
    hidden: int
    layers: int
    heads: int
    reply_tokens: int

    def model(self, seed: int = 0) -> LlamaForCausalLM:
        """Random weights; the end token has no chance, so that no reply is short."""
        tokenizer = build_tokenizer()
        size = WorldModelSize(hidden=self.hidden, layers=self.layers, heads=self.heads)
        torch.manual_seed(seed)
        return endless(LlamaForCausalLM(world_config(size, tokenizer)))


def endless(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The model with an end token that has no chance."""
    end = torch.tensor([model.config.eos_token_id])
    model.lm_head.register_forward_hook(lambda m, i, out: out.index_fill(-1, end, -1e9))
    return model


SHAPES = (Shape(64, 2, 4, 16), Shape(256, 6, 4, 64))


def learner_of(make: Callable[[], LlamaForCausalLM]) -> Learner:
    options = EngineOptions()
    return Learner(Policy(make(), options), Reference(make(), options, CPU), SETTINGS, 0)


class Clock:
    """CPU-seconds by phase; the phases of a learner are timed from outside."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self._now: dict[str, float] = {}

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            result = function(*args, **kwargs)
            self._now[phase] = self._now.get(phase, 0.0) + time.process_time() - start
            return result

        return call

    def watch(self, learner: Learner) -> None:
        learner._score = self.timed("log-probabilities", learner._score)  # type: ignore[method-assign]
        learner._update = self.timed("update", learner._update)  # type: ignore[method-assign]
        learner.policy.step = self.timed("update", learner.policy.step)  # type: ignore[method-assign]

    def step_ends(self) -> None:
        for phase, seconds in self._now.items():
            self.seconds.setdefault(phase, []).append(seconds)
        self._now = {}


def phases(rounds: int, folder: Path) -> tuple[dict[str, float], float]:
    """Median CPU-seconds of a stage-2 step by phase, and the tokens it generates."""
    build_world_model(folder, seed=0, size=WorldModelSize(steps=200))
    learners = [learner_of(lambda: LlamaForCausalLM.from_pretrained(folder)) for _ in range(2)]
    tokenizer, clock = build_tokenizer(), Clock()
    for each in learners:
        clock.watch(each)
    store = CheckpointStore(Store.open(str(folder / "checkpoints")), keep=1)
    tokens = []
    for step in range(rounds + 1):
        dialogues, judged = _collaborate(clock, learners, tokenizer, step)
        weights = FeedbackWeights(0.65, 0.0, 0.1)
        learners[0].learn(conversation_samples(dialogues, judged, (0, step)), BATCH, LEARNING_RATE)
        samples = feedback_samples(dialogues, judged, weights, (0, step))
        learners[1].learn(samples, BATCH, LEARNING_RATE)
        save = clock.timed("checkpoint", lambda s: _save(store, learners, s))
        save(step)
        if step > 0:
            clock.step_ends()
            tokens.append(sum(len(a.token_ids) for d in dialogues for a in _replies(d)))
        else:
            clock._now.clear()
    return {p: statistics.median(s) for p, s in clock.seconds.items()}, statistics.mean(tokens)


def _collaborate(clock: Clock, learners: Sequence[Learner], tokenizer: Any, step: int) -> Any:
    answers = HFSampler(learners[0].policy, tokenizer, Sampling(1.0, 12, (0, 2, step)))
    feedbacks = HFSampler(learners[1].policy, tokenizer, Sampling(1.0, 26, (0, 2, step)))
    prompts = list(enumerate(PROMPTS[step * BATCH : (step + 1) * BATCH]))
    talk = clock.timed("rollout", converse)
    dialogues = talk(prompts, WORLD_TEMPLATES, answers, feedbacks, 1)
    return dialogues, clock.timed("judge", judge_dialogues)(rule_judge, dialogues)


def _replies(dialogue: Trajectory) -> list[Any]:
    return [*dialogue.answers, *(feedback.reply for feedback in dialogue.feedbacks)]


def _save(store: CheckpointStore, learners: Sequence[Learner], step: int) -> None:
    state = {f"agent {i}": each.policy.state(copy=False) for i, each in enumerate(learners)}
    store.save(step, state, attempt="a", metadata={})


def our_step(shape: Shape) -> Callable[[int], None]:
    """One agent: sample, judge, score, update."""
    learner, tokenizer = learner_of(shape.model), build_tokenizer()

    def step(number: int) -> None:
        sampling = Sampling(1.0, shape.reply_tokens, (0, 3, number))
        prompts = list(enumerate(PROMPTS[number * BATCH : (number + 1) * BATCH]))
        agent = HFSampler(learner.policy, tokenizer, sampling)
        dialogues = converse(prompts, WORLD_TEMPLATES, agent, agent, 0)
        judged = judge_dialogues(rule_judge, dialogues)
        found = learner.learn(conversation_samples(dialogues, judged, (0, 3)), BATCH, LEARNING_RATE)
        assert found.tokens == BATCH * shape.reply_tokens

    return step


def trl_steps(shape: Shape, steps: int, folder: Path) -> list[float]:
    """CPU-seconds of each of TRL's steps; the first warms up and is left out."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    texts = [PROMPTS[i] for i in range(BATCH * (steps + 1))]
    rows = Dataset.from_list(
        [{"prompt": list(WORLD_TEMPLATES.conversation_messages(t))} for t in texts]
    )
    seconds: list[float] = []

    class Watch(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.start = time.process_time()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            seconds.append(time.process_time() - self.start)

    def reward(prompts: Any, completions: Any, **others: Any) -> list[float]:
        pairs = zip(prompts, completions, strict=True)
        found = rule_judge([(p[-1]["content"], c[0]["content"]) for p, c in pairs])
        assert all(len(ids) == shape.reply_tokens for ids in others["completion_ids"])
        return [float(labels is not None and labels.acceptable) for labels in found]

    config = GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=BATCH,
        num_generations=4,
        max_completion_length=shape.reply_tokens,
        max_steps=steps + 1,
        temperature=1.0,
        beta=BETA,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    torch.set_num_threads(1)
    shape.model().save_pretrained(folder / "model")  # TRL loads its reference from there
    trainer = GRPOTrainer(
        model=endless(LlamaForCausalLM.from_pretrained(folder / "model")),
        reward_funcs=reward,
        args=config,
        train_dataset=rows,
        processing_class=build_tokenizer(),
        callbacks=[Watch()],
    )
    with contextlib.redirect_stdout(None):
        trainer.train()
    return seconds[1:]


def trl_turn(shape: Shape, steps: int, folder: Path) -> list[float]:
    """`trl_steps` in a fresh process that knows of no process group."""
    os.environ.pop("LOCAL_RANK", None)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(trl_steps, shape, steps, folder).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--parts", default="phases,trl", help="which of the two")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("DeepSpeed", "trl", "transformers", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    print(
        f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}; torch "
        f"{torch.__version__}, trl {version('trl')}, 1 thread, {options.rounds} rounds\n"
    )
    with tempfile.TemporaryDirectory(prefix="waltz-step-") as scratch:
        if "phases" in options.parts:
            show_phases(*phases(options.rounds, Path(scratch, "world")))
        for shape in SHAPES if "trl" in options.parts else ():
            compare(shape, options.rounds, Path(scratch))


def show_phases(seconds: dict[str, float], tokens: float) -> None:
    total = sum(seconds.values())
    print("| phase | ms CPU, median | share |\n|---|---|---|")
    for phase, each in seconds.items():
        print(f"| {phase} | {1e3 * each:.0f} | {each / total:.0%} |")
    print(f"\n{tokens:.0f} tokens generated a step, {tokens / total:,.0f} a CPU-second\n")


def compare(shape: Shape, rounds: int, scratch: Path) -> None:
    """Two turns of each."""
    step, ours, theirs = our_step(shape), [], []
    step(0)
    for turn in range(2):
        for number in range(1, rounds + 1):
            start = time.process_time()
            step(number)
            ours.append(time.process_time() - start)
        theirs += trl_turn(shape, rounds, scratch / f"trl-{turn}")
    tokens = BATCH * shape.reply_tokens
    medians = {"ours": statistics.median(ours), "TRL GRPO": statistics.median(theirs)}
    parameters = sum(p.numel() for p in shape.model().parameters())
    print(f"{parameters / 1e6:.2f} million parameters, {BATCH} replies of {shape.reply_tokens}\n")
    print("| step | ms CPU, median | fastest | tokens per CPU-s |\n|---|---|---|---|")
    for (name, median), each in zip(medians.items(), (ours, theirs), strict=True):
        print(f"| {name} | {1e3 * median:.0f} | {1e3 * min(each):.0f} | {tokens / median:,.0f} |")
    print(f"\nTRL / ours: {medians['TRL GRPO'] / medians['ours']:.2f}\n", flush=True)


if __name__ == "__main__":
    main()
