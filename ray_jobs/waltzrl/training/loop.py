"""The training loop of one WaltzRL worker on Ray Train: stage 1, stage 2, test, export."""

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.errors import DataError
from data.storage import Store
from ray_jobs.checkpoint import CheckpointStore
from ray_jobs.checkpoint.saving import load_together
from ray_jobs.results.history import HISTORY, STAGE_1_HISTORY, goes_on_with
from ray_jobs.runtime.fit import WorkerContext, group_context
from ray_jobs.waltzrl.algorithm.learner import Learner, LossSettings, score_dialogues
from ray_jobs.waltzrl.algorithm.policy import EngineOptions, Policy, PolicyState, Reference
from ray_jobs.waltzrl.config import SINGLE, WaltzConfig
from ray_jobs.waltzrl.datasets.prompts import Prompt
from ray_jobs.waltzrl.datasets.splits import PromptSets
from ray_jobs.waltzrl.evaluation.metrics import (
    Interval,
    repair_line,
    repair_verdict,
)
from ray_jobs.waltzrl.evaluation.rows import TITLES, Evaluator, rates_line
from ray_jobs.waltzrl.judges.judges import open_judge
from ray_jobs.waltzrl.models.base import BaseModel, load_model, load_tokenizer, model_folder
from ray_jobs.waltzrl.rollout.dialogue import CONVERSATION, FEEDBACK, TEMPLATES, Sampler, Score
from ray_jobs.waltzrl.rollout.samplers import SamplerFactory
from ray_jobs.waltzrl.training.export import COMPARED, export_agent, export_folder
from ray_jobs.waltzrl.training.stage import Agents, Stage

logger = logging.getLogger(__name__)

NO_FEEDBACK_PARSES = (
    "not one feedback is the JSON object that it must be, so no answer is corrected: start from "
    "a model that follows instructions, or give more max_feedback_tokens"
)
VALIDATION, TEST = 1001, 1002
"""Take the place of a stage's number in the seeds of samples, so that none is drawn twice."""


@dataclass(frozen=True)
class WaltzTask:
    """What a worker needs to know; plain data and URIs, so that it pickles without a secret."""

    config: WaltzConfig
    model: BaseModel
    prompts: PromptSets
    checkpoints: Store
    output: Store
    cache_dir: Path
    price_cents_per_hour: int | None
    identity: dict[str, Any]
    """What the run depends on: data, model, code version; stored with every checkpoint."""


def train_loop(task: dict[str, Any]) -> None:
    """Run the stages on this Ray Train worker; `task["waltz"]` is a WaltzTask.

    Resumes from the newest checkpoint that verifies. Ends with the results in the output; a
    training that was already complete only measures and writes those again.

    Raises:
        NonFiniteError: the loss is not finite; the last checkpoint stays.
        StorageError: checkpoints cannot be stored.
        DataError: stage 2 alone, without a stage 1 in this storage.
    """
    Run(task["waltz"], group_context()).go()


class Run:
    """One worker's run through the stages; every method is collective."""

    def __init__(self, task: WaltzTask, worker: WorkerContext) -> None:
        self.task, self.worker = task, worker
        config = self.config = task.config
        # Rank by rank would be slower than each on its own: the files are small or the hub's.
        self.folder = model_folder(task.model, task.cache_dir / f"rank-{worker.rank}")
        self.tokenizer = load_tokenizer(self.folder)
        self.options = EngineOptions(
            config.zero_stage, config.dtype, config.offload_optimizer, config.clip_norm
        )
        self.settings = LossSettings(
            config.beta,
            config.epsilon,
            config.importance_cap,
            config.temperature,
            config.updates_per_rollout,
            config.gradient_accumulation,
        )
        self.samplers = SamplerFactory(config, self.tokenizer)
        self.histories: dict[str, Any] = {}
        self._open_policies = ExitStack()

    def go(self) -> None:
        """Take all stages that are asked for and not complete, then write the results."""
        with self._open_policies:
            base = self._reference(None)
            first = self._stage_1(base)
            if 2 in self.config.stages:
                single = self._single(base) if self.config.single_steps else None
                stage, saved = self._open(2)
                self._stage_2(base, first, single, stage, saved)
            elif self.worker.rank == 0:
                self.task.output.write_json(STAGE_1_HISTORY, self.histories)

    def finish(self) -> int | None:
        """Write the results of stage 2's newest checkpoint, which stays as it is.

        Returns:
            The checkpoint's step; None if there is none.
        """
        stage_1, first = self._open(1)
        if first is None or not stage_1.history.stopped:
            return None
        stage, saved = self._open(2)
        if saved is None:
            return None
        if not stage.history.stopped:
            stage.history.finish(stage.step, "ended from outside")
        self.histories["stage_1"] = stage_1.history.to_dict()
        with self._open_policies:
            self._stage_2(self._reference(None), _feedback(first), None, stage, saved)
        return stage.step

    def _stage_1(self, base: Reference) -> dict[str, Tensor]:
        """Take the stage if it is asked for and not complete; its feedback agent's weights."""
        stage, saved = self._open(1)
        if 1 in self.config.stages and not stage.history.stopped:
            feedback = self._learner(self._trained(saved, FEEDBACK, None), base)
            self._train(stage, Agents(base, feedback.policy, {FEEDBACK: feedback}))
            self._open_policies.close()
            saved = self._load_state(1)
        if saved is None or not stage.history.stopped:
            raise DataError(
                f"{self.task.checkpoints.label}: no stage 1 of this configuration and data; "
                "run with --stage both or --stage 1 first"
            )
        self.histories["stage_1"] = stage.history.to_dict()
        return _feedback(saved)

    def _single(self, base: Reference) -> Policy:
        stage, saved = self._open(SINGLE)
        learner = self._learner(self._trained(saved, CONVERSATION, None), base)
        self._train(stage, Agents(learner.policy, base, {CONVERSATION: learner}))
        self.histories["single"] = stage.history.to_dict()
        return learner.policy

    def _stage_2(
        self,
        base: Reference,
        first: dict[str, Tensor],
        single: Policy | None,
        stage: Stage,
        saved: dict[str, Any] | None,
    ) -> None:
        stage_1 = self._reference(first)
        conversation = self._learner(self._trained(saved, CONVERSATION, None), base)
        feedback = self._learner(self._trained(saved, FEEDBACK, first), stage_1)
        learners = {CONVERSATION: conversation, FEEDBACK: feedback}
        self._train(stage, Agents(conversation.policy, feedback.policy, learners))
        self.histories["stage_2"] = stage.history.to_dict()
        score = score_dialogues(learners, stage.rows)
        self._results(base, stage_1, learners, single, first, score)

    def _open(self, number: int) -> tuple[Stage, dict[str, Any] | None]:
        """A stage at its newest checkpoint, and that checkpoint's state."""
        judge = open_judge("train_judge", self.config.train_judge)
        stage = Stage(number, self.samplers, self.task.prompts.train, judge, self.worker)
        saved = self._load_state(number)
        if saved is not None:
            stage.resume(saved["position"])
        return stage, saved

    def _load_state(self, number: int) -> dict[str, Any] | None:
        return load_together(self._checkpoints(number), self.worker.rank)

    def _checkpoints(self, number: int) -> CheckpointStore:
        store = self.task.checkpoints.child(f"stage-{number}")
        return CheckpointStore(store, keep=self.config.keep_checkpoints)

    def _train(self, stage: Stage, agents: Agents) -> None:
        """Take the steps that are left; report the checks of earlier attempts again."""
        seed = (self.config.seed, VALIDATION, 0)
        held_out = self._evaluator(self.task.prompts.validation)

        def report(step: int, measured: dict[str, Interval]) -> None:
            shown = {name: each["value"] for name, each in measured.items()}
            self.worker.report({"stage": stage.number, "step": step, **shown})

        def check() -> dict[str, Interval]:
            measured = held_out(
                self.samplers.answers(agents.conversation, seed),
                self.samplers.feedbacks(agents.feedback, seed),
                max_rounds=0 if stage.number == SINGLE else None,
                score=score_dialogues(agents.learners, stage.rows),
            )
            report(stage.step, measured)
            if self.worker.rank == 0:
                logger.info("waltz  held out: %s", rates_line(measured))
                if measured["format_rate"]["value"] == 0:
                    logger.warning("waltz  warning: %s", NO_FEEDBACK_PARSES)
            return measured

        for entry in stage.history.checks:
            report(entry["step"], {name: entry[name] for name in entry if name != "step"})
        if not stage.history.stopped:
            changed = goes_on_with(stage.history.code_sha256, self.task.identity["code_sha256"])
            if changed and self.worker.rank == 0:
                logger.warning("waltz  resuming with other code than took the earlier steps")
            store = self._checkpoints(stage.number)
            saving = stage.open_saving(store, agents, self.task.identity)
            stage.train(agents, saving, check, self.task.price_cents_per_hour)

    def _evaluator(self, prompts: tuple[Prompt, ...]) -> Evaluator:
        config = self.config
        templates = TEMPLATES[config.prompts]
        judge = open_judge("eval_judge", config.eval_judge)
        return Evaluator(prompts, templates, judge, self.worker, config.max_rounds, config.seed)

    def _results(
        self,
        base: Reference,
        stage_1: Reference,
        learners: dict[str, Learner],
        single: Policy | None,
        first: dict[str, Tensor],
        score: Score,
    ) -> None:
        """Measure every row of the comparison on the test prompts, and write it all."""
        seed = (self.config.seed, TEST, 0)
        samplers = self.samplers
        trained: dict[str, Sampler] = {
            "conversation": samplers.answers(learners[CONVERSATION].policy, seed),
            "feedback": samplers.feedbacks(learners[FEEDBACK].policy, seed),
            "stage_1_feedback": samplers.feedbacks(stage_1, seed),
        }
        if single is not None:
            trained["single_rl"] = samplers.answers(single, seed)
        rows = self._evaluator(self.task.prompts.test).rows(
            (samplers.answers(base, seed), samplers.feedbacks(base, seed)), trained, score=score
        )
        weights = {name: each.policy.weights() for name, each in learners.items()}
        compared = {} if single is None else {"single_rl": single.weights()}
        if self.worker.rank != 0:
            return
        for name, measured in rows.items():
            logger.info("waltz  %s: %s", TITLES[name], rates_line(measured))
        logger.info("waltz  %s", repair_line(rows["waltzrl"]))
        for name, tensors in weights.items():
            export_agent(self.task.output, name, self.folder, tensors, rows["waltzrl"])
        for name, tensors in (compared | {"stage_1_feedback": first}).items():
            export_folder(self.task.output, f"{COMPARED}/{name}", self.folder, tensors)
        self.task.output.write_json("evaluation.json", rows)
        self.task.output.write_json("verdict.json", repair_verdict(rows["waltzrl"]))
        self.task.output.write_json(HISTORY, self.histories)

    def _learner(self, policy: Policy, reference: Reference) -> Learner:
        return Learner(policy, reference, self.settings, self.tokenizer.pad_token_id)

    def _trained(
        self, saved: dict[str, Any] | None, name: str, weights: dict[str, Tensor] | None
    ) -> Policy:
        """An agent to train: from the checkpoint's state, which gives it up to save memory; else
        the base model, with `weights` if there are any."""
        state: PolicyState | None = None if weights is None else {"weights": weights, "updates": 0}
        if saved is not None:
            state = saved["agents"].pop(name)
        policy = Policy(self._load_model(), self.options, state)
        self._open_policies.callback(policy.close)
        return policy

    def _reference(self, weights: dict[str, Tensor] | None) -> Reference:
        model = self._load_model()
        if weights is not None:
            model.load_state_dict(weights, strict=False)
        return Reference(model, self.options, self.worker.device)

    def _load_model(self) -> torch.nn.Module:
        half = self.config.dtype == "bfloat16"
        model = load_model(self.folder, torch.bfloat16 if half else torch.float32)
        if self.config.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        return model


def _feedback(saved: dict[str, Any]) -> dict[str, Tensor]:
    return saved["agents"][FEEDBACK]["weights"]
