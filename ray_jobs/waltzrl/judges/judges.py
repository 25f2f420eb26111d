"""Judges: the one that a run names, and labels of every answer of a batch of dialogues.

    rules                                               the embedded world's own
    wildguard@http://judge:8000/v1@allenai/wildguard    an OpenAI-compatible server
    llama-guard@http://judge:8000/v1@meta-llama/Llama-Guard-3-8B
    wildguard@local:/models/wildguard                   on the workers' own devices

A failed judgement is None, never a verdict: it is masked and counted. A batch of
which no worker has one judgement is judged again, and then the run ends: training without a judge
would be a waste of money.
"""

import os
from collections.abc import Callable, Sequence

from data.builders.waltz_world import faults
from data.errors import ConfigError, DataError
from ray_jobs.runtime.collectives import all_agree
from ray_jobs.waltzrl.judges.forms import FORMS
from ray_jobs.waltzrl.judges.local import PREFIX, local_judge
from ray_jobs.waltzrl.judges.server import HTTPJudge
from ray_jobs.waltzrl.rollout.dialogue import Labels, Trajectory

Judge = Callable[[Sequence[tuple[str, str]]], list[Labels | None]]
"""Labels of (prompt, answer) pairs, in their order; None where the judge failed."""

API_KEY = "WALTZRL_JUDGE_API_KEY"
"""Environment variable of the workers with the key of a judge behind a server, if it has one."""

BATCH_TRIES = 3


def open_judge(field: str, name: str) -> Judge:
    """The judge called `name`, the value of the config's `field`.

    Raises:
        ConfigError: it is not of one of the module's forms.
    """
    if name == "rules":
        return rule_judge
    form, _, server = name.partition("@")
    if form in FORMS and server.startswith(PREFIX):
        return local_judge(field, server, FORMS[form])
    url, _, model = server.partition("@")
    if form not in FORMS or not url.startswith(("http://", "https://")) or not model:
        raise ConfigError(
            field,
            f"{name!r} is neither rules nor FORM@URL@MODEL nor FORM@local:MODEL with FORM "
            f"{' or '.join(FORMS)}",
        )
    return HTTPJudge(url, model, FORMS[form], os.environ.get(API_KEY))


def rule_judge(pairs: Sequence[tuple[str, str]]) -> list[Labels | None]:
    """The truth of the embedded world; fails on prompts that are not of it."""
    found = [faults(prompt, answer) for prompt, answer in pairs]
    return [None if fault is None else Labels(*fault) for fault in found]


def judge_dialogues(
    judge: Judge, trajectories: Sequence[Trajectory]
) -> list[tuple[Labels | None, ...]]:
    """The labels of every answer of every dialogue, from one call of the judge."""
    pairs = [(each.prompt, answer.text) for each in trajectories for answer in each.answers]
    labels = iter(judge(pairs))
    return [tuple(next(labels) for _ in each.answers) for each in trajectories]


def judge_together(
    judge: Judge, trajectories: Sequence[Trajectory]
) -> list[tuple[Labels | None, ...]]:
    """`judge_dialogues` of every worker's share of a batch; collective.

    Raises:
        DataError: no worker has a judgement, BATCH_TRIES times in a row.
    """
    for _ in range(BATCH_TRIES):
        judged = judge_dialogues(judge, trajectories)
        if not all_agree(all(labels is None for each in judged for labels in each)):
            return judged
    raise DataError(
        f"{judge}: not one answer of a batch could be judged, {BATCH_TRIES} times in a row; look "
        "at it, then rerun to resume from the newest checkpoint"
    )
