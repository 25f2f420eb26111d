"""HTTP judge: a judge model behind an OpenAI-compatible server (vLLM, SGLang, ...).

Calls run in parallel. A call that times out and a server that is away, busy or failing (429, 5xx)
are retried until `patience_s` have gone by, a reply that is not of the form `tries` times; then
that judgement is None. One that the server refuses (400: too long a dialogue, say) is None at once.
While a server has answered nothing at all of a batch, the first judgement that is given up gives up
the others: hence this loop, where urllib3's Retry knows one call alone. What becomes of a batch
without a judgement is for `judges.judge_together`.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from data.errors import DataError
from ray_jobs.waltzrl.judges.forms import JudgeForm
from ray_jobs.waltzrl.rollout.dialogue import Labels, Message
from ray_jobs.waltzrl.rollout.server import RefusedRequestError, TransientServerError, post_json

logger = logging.getLogger(__name__)

MAX_DELAY_S = 16.0
_WRONG_SETUP = (401, 403, 404)
"""Statuses that concern every answer: key, address or model."""


@dataclass
class _Batch:
    """What the calls of a batch share."""

    answered: bool = False
    """Whether the server has answered any of them."""
    given_up: bool = False
    reason: str = ""


@dataclass(frozen=True)
class HTTPJudge:
    """`url` is the server's base, e.g. http://judge:8000/v1; the key comes from `api_key`."""

    url: str
    model: str
    form: JudgeForm
    api_key: str | None = None
    timeout_s: float = 60.0
    tries: int = 3
    patience_s: float = 90.0
    parallel_calls: int = 32
    max_tokens: int = 64
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def __str__(self) -> str:
        return f"judge {self.url}"

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[Labels | None]:
        """Labels in the pairs' order; None where every try failed.

        Raises:
            DataError: the server refuses the address, model or key.
        """
        if not pairs:
            return []
        batch = _Batch()
        with ThreadPoolExecutor(self.parallel_calls) as pool:
            found = list(pool.map(lambda pair: self._judge(batch, *pair), pairs))
        failed = sum(labels is None for labels in found)
        if failed:
            logger.warning(
                "judge  %d of %d answers could not be judged, the last because of %s",
                *(failed, len(pairs), batch.reason),
            )
        return found

    def _judge(self, batch: "_Batch", prompt: str, answer: str) -> Labels | None:
        messages, start_s = self.form.messages(prompt, answer), self.clock()
        tried, ends = 0, False
        while not (ends or batch.given_up):
            if tried:
                self.sleep(min(2.0 ** (tried - 1), MAX_DELAY_S))
            tried += 1
            try:
                labels = self.form.read(self._ask(messages))
                batch.answered = True
                if labels is not None:
                    return labels
                batch.reason, ends = "a reply of another form", tried >= self.tries
            except RefusedRequestError as error:
                batch.reason, ends = str(error), True
            except TransientServerError as error:
                patient = self.clock() - start_s < self.patience_s
                batch.reason, ends = str(error), tried >= self.tries and not patient
                batch.given_up = ends and not batch.answered
        return None

    def _ask(self, messages: list[Message]) -> str:
        """The server's reply."""
        try:
            answer = post_json(
                f"{self.url.rstrip('/')}/chat/completions",
                {
                    "model": self.model,
                    "messages": messages,
                    "temperature": 0,
                    "max_tokens": self.max_tokens,
                },
                self.api_key,
                self.timeout_s,
            )
            return str(answer["choices"][0]["message"]["content"])
        except RefusedRequestError as error:
            if error.status not in _WRONG_SETUP:
                raise
            raise DataError(
                f"judge {self.url}: {error} for model {self.model!r}; "
                "check its address, model name and key"
            ) from error
        except (LookupError, TypeError) as error:
            raise TransientServerError("an answer of another form") from error
