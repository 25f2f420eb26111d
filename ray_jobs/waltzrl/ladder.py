"""The memory ladder: where a micro batch does not fit, halve it until one does.

A worker cannot go on by itself: the others wait for it in the middle of a collective, and what
ZeRO 3 had gathered is lost. So the run ends on every worker, and all of them start again from
the newest checkpoint with twice the parts, which makes the decision everybody's. The effective
batch, and with it the outcome up to rounding, stays what it was. That this happens within the
first step, and not at the longest dialogue of the third hour, is `Learner.rehearse`'s doing.

Sampling needs no such thing: what is sampled within a gathered model is no collective, so a worker
that has no room for all its replies generates fewer at once (`rollout.Room`), whenever it is.

The fields that are advised where not even one sample fits do not make it another run, but for
max_answer_tokens: it goes on from its checkpoints.
"""

import dataclasses
import logging
from collections.abc import Callable

from data.errors import ConfigError, MicroBatchError
from ray_jobs.waltzrl.training.loop import WaltzTask

logger = logging.getLogger(__name__)


def fit_in_memory(fit: Callable[[WaltzTask], object], task: WaltzTask) -> None:
    """Call `fit` with ever more gradient accumulation until it ends.

    Raises:
        ConfigError: not even one sample at a time fits.
    """
    while True:
        try:
            fit(task)
        except MicroBatchError as error:
            task = _next_rung(task, error)
        else:
            return


def _next_rung(task: WaltzTask, error: MicroBatchError) -> WaltzTask:
    parts = 2 * task.config.gradient_accumulation
    if error.rows == 1:
        raise ConfigError(
            "zero_stage",
            f"one sample at a time does not fit into a worker's memory with ZeRO "
            f"{task.config.zero_stage}: give zero_stage 3, gradient_checkpointing, "
            "offload_optimizer, more workers, or fewer max_answer_tokens",
        ) from error
    logger.warning(
        "waltz  %s: going on with gradient_accumulation %d, at most %d at once; "
        "the effective batch stays %d",
        *(error, parts, -(-error.rows // 2), task.config.batch_size),
    )
    return dataclasses.replace(
        task, config=dataclasses.replace(task.config, gradient_accumulation=parts)
    )
