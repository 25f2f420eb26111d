"""One stage of WaltzRL on one worker: dialogues, rewards, updates, checks, checkpoints.

Stage 1 trains the feedback agent against the frozen base model; stage 2 trains both agents,
from the base model and from stage 1's feedback agent, each held to where it started. Stage 3 is
for comparison: one model by the conversation agent's reward, without any feedback.

What makes it independent of the number of workers, and of being interrupted:
- global batch `step` is a function of (seed, step); a worker takes every world_size-th prompt;
- a reply's randomness is a function of (seed, stage, step, sample, turn);
- advantages are whitened, and losses divided, over the tokens of all workers;
- the agents' full states, the history and the step are one checkpoint.

Deviation from arXiv 2510.08240:
 1. In stage 2 the feedback agent's KL reference is its stage-1 self (the paper does not say
    which). With lambda = 0 and good first answers the KL term is the only force on the labels;
    held to the base model, the agent would unlearn stage 1.
"""

import logging
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.errors import JobError, NonFiniteError
from ray_jobs.checkpoint import CheckpointStore
from ray_jobs.checkpoint.saving import Saving
from ray_jobs.results.history import StageHistory
from ray_jobs.runtime.fit import WorkerContext
from ray_jobs.runtime.progress import Progress
from ray_jobs.waltzrl.algorithm.learner import Learner, LearnStatistics
from ray_jobs.waltzrl.algorithm.policy import is_finite
from ray_jobs.waltzrl.algorithm.rewards import (
    FeedbackWeights,
    conversation_samples,
    feedback_samples,
)
from ray_jobs.waltzrl.config import SINGLE
from ray_jobs.waltzrl.datasets.prompts import Prompt
from ray_jobs.waltzrl.evaluation.metrics import Interval
from ray_jobs.waltzrl.judges.judges import Judge, judge_together
from ray_jobs.waltzrl.rollout.dialogue import (
    FEEDBACK,
    TEMPLATES,
    Labels,
    Trajectory,
    converse,
)
from ray_jobs.waltzrl.rollout.hf import GathersModel
from ray_jobs.waltzrl.rollout.samplers import SamplerFactory

logger = logging.getLogger(__name__)

PROGRESS_INTERVAL_S = 2.0


@dataclass(frozen=True)
class Agents:
    """The models that a stage samples from, and by name those that learn."""

    conversation: GathersModel
    feedback: GathersModel
    learners: dict[str, Learner]


class Stage:
    """One stage of the training: its position, and everything that its steps need."""

    def __init__(
        self,
        number: int,
        samplers: SamplerFactory,
        prompts: tuple[Prompt, ...],
        judge: Judge,
        worker: WorkerContext,
    ) -> None:
        config = self.config = samplers.config
        self.number, self._samplers, self._prompts = number, samplers, prompts
        self._judge, self._worker = judge, worker
        self.step = 0
        self._preempted = False
        self.history = StageHistory(config.planned_steps(number, len(prompts)))
        self._seconds_before = 0.0
        self._started_s = time.monotonic()
        self._weights = FeedbackWeights(
            config.alpha, config.lambda_stage1 if number == 1 else 0.0, config.gamma
        )

    def open_saving(
        self, store: CheckpointStore, agents: Agents, metadata: dict[str, Any]
    ) -> Saving:
        """Checkpoints of this stage and the agents that learn, in `store`; collective."""

        def state() -> dict[str, Any]:
            policies = {name: each.policy for name, each in agents.learners.items()}
            return {
                "position": self.position(),
                "agents": {name: each.state(copy=False) for name, each in policies.items()},
            }

        return Saving(
            store,
            self._worker.rank,
            state,
            {**metadata, "stage": self.number},
            self.config.checkpoint_every_steps,
            self.config.checkpoint_every_minutes,
            shared_out=True,
            check=check_finite,
        )

    def position(self) -> dict[str, Any]:
        """What a checkpoint holds of the stage itself; `resume` takes it."""
        return {"step": self.step, "history": self.history.to_dict(), "seconds": self.seconds}

    def resume(self, position: dict[str, Any]) -> None:
        """Continue from a checkpoint's position."""
        self.step = position["step"]
        self.history = StageHistory(**position["history"])
        self._seconds_before = position["seconds"]

    @property
    def seconds(self) -> float:
        """Seconds of training over all attempts."""
        return self._seconds_before + time.monotonic() - self._started_s

    def train(
        self,
        agents: Agents,
        saving: Saving,
        check: Callable[[], dict[str, Interval]],
        price_cents_per_hour: int | None,
    ) -> None:
        """All steps that are left; ends with the last checkpoint committed. Collective."""
        progress = Progress(
            self.history.planned_steps, "steps", price_cents_per_hour, done_before=self.step
        )
        self._started_s = time.monotonic()
        try:
            self._take_steps(agents, saving, check, progress)
        except JobError:
            saving.settle()  # the process ends with this; what is under way still counts
            raise
        saving.finish(self.step)

    def _take_steps(
        self,
        agents: Agents,
        saving: Saving,
        check: Callable[[], dict[str, Interval]],
        progress: Progress,
    ) -> None:
        total = self.history.planned_steps
        if self.step < total:
            self._preflight(agents)
        shown_s = -math.inf
        while self.step < total:
            self._take_step(agents)
            if self._worker.rank == 0 and time.monotonic() - shown_s > PROGRESS_INTERVAL_S:
                shown_s = time.monotonic()
                logger.info("waltz  stage %d  %s", self.number, self._line(progress))
            if self.step % self.config.eval_every_steps == 0 or self.step == total:
                self.history.checks.append({"step": self.step, **check()})
            if self.step == total:
                self.history.finish(self.step, f"all {total} planned steps done")
            else:
                self._save(saving)

    def _preflight(self, agents: Agents) -> None:
        """Memory preflight: a step of the largest size, so that what cannot fit fails now."""
        conversation, feedback = self._samplers.largest_sample(self._prompts, self._rounds)
        for name, learner in agents.learners.items():
            learner.preflight(self.rows, *(feedback if name == FEEDBACK else conversation))

    @property
    def _rounds(self) -> int:
        return 0 if self.number == SINGLE else self.config.max_rounds

    @property
    def rows(self) -> int:
        """Rows of a worker's share of a batch, those that pad it included."""
        return -(-self.config.batch_size // self._worker.world_size)

    def _save(self, saving: Saving) -> None:
        """Save if a checkpoint is due; at a preemption notice save now, once, since Ray Train then
        restarts the workers elsewhere."""
        known, self._preempted = self._preempted, self._worker.preempted()
        if known or not self._preempted:
            saving.save_if_due(self.step, epoch_ends=False)
            return
        saving.save_now(self.step)
        if self._worker.rank == 0:
            logger.info("waltz  a machine is being taken away: step %d is saved", self.step)

    def _line(self, progress: Progress) -> str:
        curves = self.history.curves
        rewards = "  ".join(
            f"{name[7:]} reward {values[-1]:.2f}"
            for name, values in curves.items()
            if name.startswith("reward_") and values[-1] is not None
        )
        return f"{progress.line(self.step)}  {rewards}"

    def _take_step(self, agents: Agents) -> None:
        config, worker = self.config, self._worker
        seed = (config.seed, self.number, self.step)
        batch = batch_of(self._prompts, config.batch_size, self.step, config.seed)
        started_s = time.monotonic()
        dialogues = converse(
            [(sample, prompt.text) for sample, prompt in batch[worker.rank :: worker.world_size]],
            TEMPLATES[config.prompts],
            self._samplers.answers(agents.conversation, seed),
            self._samplers.feedbacks(agents.feedback, seed),
            self._rounds,
        )
        sampled_s = time.monotonic()
        judged = judge_together(self._judge, dialogues)
        judged_s = time.monotonic()
        statistics = self._learn(agents, dialogues, judged, seed)
        learned_s = time.monotonic()
        self.step += 1
        self.history.log(
            steps=self.step,
            times=self.seconds,
            rollout_s=sampled_s - started_s,
            judge_s=judged_s - sampled_s,
            learn_s=learned_s - judged_s,
            gradient_accumulation=self.config.gradient_accumulation,
            **_curves(statistics),
        )

    def _learn(
        self,
        agents: Agents,
        dialogues: list[Trajectory],
        judged: list[tuple[Labels | None, ...]],
        seed: tuple[int, ...],
    ) -> dict[str, LearnStatistics]:
        """Both agents' updates from the same dialogues."""
        rate = self.learning_rate()
        found = {}
        for name, learner in agents.learners.items():
            if name == FEEDBACK:
                samples = feedback_samples(dialogues, judged, self._weights, seed)
            else:
                samples = conversation_samples(dialogues, judged, seed)
            found[name] = learner.learn(samples, self.rows, rate)
        return found

    def learning_rate(self) -> float:
        """Linear warm-up, then linear decay to the share that is left at the stage's end."""
        config, done = self.config, self.step + 1
        if done <= config.warmup_steps:
            return config.learning_rate * done / config.warmup_steps
        way = (done - config.warmup_steps) / (self.history.planned_steps - config.warmup_steps)
        return config.learning_rate * (1 - way * (1 - config.final_learning_rate_share))


def check_finite(state: Mapping[str, Any]) -> None:
    """Refuse to store an agent with a NaN or an infinity: no training resumes from one.

    Raises:
        NonFiniteError: with the agent's name and the step.
    """
    for name, agent in state["agents"].items():
        if not is_finite(agent):
            raise NonFiniteError(
                f"the {name} agent is not finite after step {state['position']['step']}: the last "
                "checkpoint stays; lower learning_rate"
            )


def _curves(statistics: dict[str, LearnStatistics]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, each in statistics.items():
        found[f"reward_{name}"] = each.reward
        found[f"kl_{name}"] = each.kl
        found[f"drift_{name}"] = each.drift
        found[f"loss_{name}"] = each.loss
        found[f"tokens_{name}"] = each.tokens
        found[f"judge_errors_{name}"] = each.judge_errors
        found[f"gradient_norm_{name}"] = each.gradient_norm
    return found


def batch_of(
    prompts: Sequence[Prompt], size: int, step: int, seed: int
) -> list[tuple[int, Prompt]]:
    """(sample, prompt) pairs of global batch `step`: a function of (seed, step) alone.

    Each epoch is a new permutation; what does not fill a batch is left out of it.
    """
    per_epoch = len(prompts) // size
    epoch, within = divmod(step, per_epoch)
    order = random.Random(f"{seed}/{epoch}").sample(range(len(prompts)), len(prompts))
    chosen = order[within * size : (within + 1) * size]
    return [(sample, prompts[index]) for sample, index in enumerate(chosen)]
