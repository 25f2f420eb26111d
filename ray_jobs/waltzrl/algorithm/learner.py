"""Learner: one agent's update from its samples of a step, and scores of its replies.

Every worker has the same number of rows and makes the same forward and backward passes, which
ZeRO needs: shares of a batch that no number of workers divides are filled up with rows that
count nothing, and so are samples whose judge failed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from data.errors import MicroBatchError, NonFiniteError
from ray_jobs.runtime.collectives import all_sum, most
from ray_jobs.waltzrl.algorithm.loss import (
    ActionBatch,
    action_batch,
    advantages,
    importance,
    k3,
    surrogate,
)
from ray_jobs.waltzrl.algorithm.policy import Policy, Reference
from ray_jobs.waltzrl.algorithm.rewards import Sample
from ray_jobs.waltzrl.rollout.dialogue import CONVERSATION, Reply, Score, TokenScores, Trajectory


@dataclass(frozen=True)
class LossSettings:
    """Symbols as in `algorithm.loss`; `parts`: forward passes a worker's share takes."""

    beta: float
    epsilon: float
    importance_cap: float
    temperature: float
    updates: int
    parts: int


@dataclass(frozen=True)
class LearnStatistics:
    """Of the whole step over all workers, before its first update but for `loss`."""

    reward: float
    kl: float
    """Per token, k3, from the reference."""
    drift: float
    """Mean over tokens of |training - sampler| log-probability."""
    loss: float
    tokens: int
    judge_errors: int
    gradient_norm: float | None


class Learner:
    """A policy and the reference it is held to."""

    def __init__(
        self, policy: Policy, reference: Reference, settings: LossSettings, pad_id: int
    ) -> None:
        self.policy = policy
        self._reference = reference
        self._settings = settings
        self._pad_id = pad_id

    def learn(self, samples: Sequence[Sample], rows: int, learning_rate: float) -> LearnStatistics:
        """Update from this worker's samples, filled up to `rows`; collective.

        Raises:
            NonFiniteError: a NaN or infinity in loss or log-probabilities; nothing is updated.
            MicroBatchError: a part of the share does not fit into memory.
        """
        with _micro_batch_errors(self._parts(rows)):
            return self._learn(samples, rows, learning_rate)

    def preflight(self, rows: int, prompt_tokens: int, action_tokens: int) -> None:
        """Memory preflight: compute a share of this size, forward and backward, without effect.

        Its gradient is zero, and the next step's is added to it. Collective.

        Raises:
            MicroBatchError: a part of the share does not fit into memory.
        """
        pair = ((self._pad_id,) * prompt_tokens, (self._pad_id,) * action_tokens)
        with _micro_batch_errors(self._parts(rows)):
            batch = action_batch([pair] * rows, self._pad_id, self.policy.device)
            old, _ = self._score(batch)
            nothing = torch.zeros_like(old)
            self._update(batch, old, nothing, nothing, 1.0)

    def score(self, replies: Sequence[Reply], rows: int, rows_at_once: int) -> list[TokenScores]:
        """Sums over each reply's tokens under the policy as it is; filled up to `rows`, which is
        the same on every worker; collective.

        Raises:
            MicroBatchError: a part of `rows_at_once` does not fit into memory.
        """
        padded = [*replies, *[Reply("")] * (rows - len(replies))]
        found: list[TokenScores] = []
        with _micro_batch_errors(self._parts(rows_at_once)):
            for start in range(0, rows, rows_at_once):
                some = [Sample(reply, 0.0) for reply in padded[start : start + rows_at_once]]
                batch, _, sampler = self._tensors(some)
                old, ref = self._score(batch)
                sums = [batch.mask, k3(old, ref) * batch.mask, (old - sampler).abs() * batch.mask]
                by_row = torch.stack([each.double().sum(dim=1) for each in sums], dim=1)
                found += [TokenScores(*row) for row in by_row.tolist()]
        return found[: len(replies)]

    def _learn(self, samples: Sequence[Sample], rows: int, learning_rate: float) -> LearnStatistics:
        padded = [*samples, *[_NOTHING] * (rows - len(samples))]
        batch, rewards, sampler = self._tensors(padded)
        old, ref = self._score(batch)
        setting = self._settings
        advantage = advantages(rewards, old, ref, batch.mask, setting.beta, all_sum)
        weight = importance(old, sampler, setting.importance_cap) * batch.mask
        totals = self._totals(samples, batch.mask, old, ref, sampler, rewards)
        tokens = max(1.0, totals[0])
        loss, norm = math.nan, None
        for _ in range(setting.updates):
            loss = self._update(batch, old, advantage, weight, tokens)
            norm = self.policy.step(learning_rate)
        return LearnStatistics(
            reward=totals[3] / max(1.0, totals[4]),
            kl=totals[1] / tokens,
            drift=totals[2] / tokens,
            loss=loss,
            tokens=int(totals[0]),
            judge_errors=int(totals[5]),
            gradient_norm=norm,
        )

    def _tensors(self, samples: Sequence[Sample]) -> tuple[ActionBatch, Tensor, Tensor]:
        """(batch, rewards (B,), sampler's log-probabilities (B, T))."""
        device = self.policy.device
        counted = [sample if sample.reward is not None else _NOTHING for sample in samples]
        pairs = [(each.reply.prompt_ids, each.reply.token_ids) for each in counted]
        pairs = [(prompt or (self._pad_id,), action) for prompt, action in pairs]
        batch = action_batch(pairs, self._pad_id, device)
        sampler = torch.zeros_like(batch.mask)
        for row, each in enumerate(counted):
            sampler[row, : len(each.reply.logprobs)] = torch.tensor(each.reply.logprobs)
        rewards = torch.tensor([each.reward or 0.0 for each in counted], device=device)
        return batch, rewards, sampler

    def _parts(self, rows: int) -> list[tuple[int, int]]:
        size = -(-rows // min(self._settings.parts, rows))
        return [(start, min(rows, start + size)) for start in range(0, rows, size)]

    @torch.no_grad()
    def _score(self, batch: ActionBatch) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, T) of the policy as it is, and of the reference."""
        temperature = self._settings.temperature
        parts = [batch.rows(*part) for part in self._parts(len(batch.ids))]
        old = torch.cat([self.policy.logprobs(part, temperature) for part in parts])
        ref = torch.cat([self._reference.logprobs(part, temperature) for part in parts])
        return old, ref

    def _update(
        self, batch: ActionBatch, old: Tensor, advantage: Tensor, weight: Tensor, tokens: float
    ) -> float:
        """Gradient of the whole batch; the loss over all workers."""
        setting = self._settings
        total = torch.zeros(1, dtype=torch.float64, device=old.device)
        for start, stop in self._parts(len(batch.ids)):
            logp = self.policy.logprobs(batch.rows(start, stop), setting.temperature)
            own = slice(start, stop)
            terms = surrogate(logp, old[own], advantage[own], weight[own], setting.epsilon)
            loss = terms.sum() / tokens
            self.policy.backward(loss)
            total += loss.detach().double()
        value = all_sum(total).item()
        if not math.isfinite(value):
            raise NonFiniteError(
                "the loss is not finite: the last checkpoint stays; lower learning_rate"
            )
        return value

    def _totals(
        self,
        samples: Sequence[Sample],
        mask: Tensor,
        old: Tensor,
        ref: Tensor,
        sampler: Tensor,
        rewards: Tensor,
    ) -> list[float]:
        """Over all workers: tokens, k3, drift, rewards, rewarded samples, failed judgements."""
        failed = sum(sample.reward is None for sample in samples)
        sums = [
            mask.sum(),
            (k3(old, ref) * mask).sum(),
            ((old - sampler).abs() * mask).sum(),
            rewards.sum(),
            torch.tensor(float(len(samples) - failed)),
            torch.tensor(float(failed)),
        ]
        return all_sum(torch.stack([each.double().to(old.device) for each in sums])).tolist()


@contextmanager
def _micro_batch_errors(parts: Sequence[tuple[int, int]]) -> Iterator[None]:
    """Turn PyTorch's out-of-memory error into one that says how many rows were too many."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MicroBatchError(max(stop - start for start, stop in parts)) from error


_NOTHING = Sample(Reply(""), None)


def score_dialogues(learners: Mapping[str, Learner], rows_at_once: int) -> Score:
    """Of all replies of the agents that learn; workers may have unequal numbers of them.

    `rows_at_once`: a share of a training step, which is known to fit.
    """

    def score(dialogues: Sequence[Trajectory]) -> list[dict[str, TokenScores]]:
        found: list[dict[str, TokenScores]] = [{} for _ in dialogues]
        for name, learner in learners.items():
            replies = [_replies(each, name) for each in dialogues]
            flat = [reply for each in replies for reply in each]
            scores = iter(learner.score(flat, most(len(flat)), rows_at_once))
            for dialogue, each in zip(found, replies, strict=True):
                dialogue[name] = TokenScores.total(next(scores) for _ in each)
        return found

    return score


def _replies(dialogue: Trajectory, agent: str) -> list[Reply]:
    if agent == CONVERSATION:
        return dialogue.answers
    return [feedback.reply for feedback in dialogue.feedbacks]
