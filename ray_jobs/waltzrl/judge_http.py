"""A judge behind an OpenAI-compatible server (vLLM, SGLang, ...), which runs on its own.

Calls run side by side. A call that times out, a server that is busy or failing (429, 5xx) and a
reply that is not of the form are tried again, then that judgement is None. A judge that gives
not one judgement of a batch is down, and training without one would be a waste of money: that
raises.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ray_jobs.errors import DataError
from ray_jobs.waltzrl.dialogue import Labels
from ray_jobs.waltzrl.http_json import PassingError, RefusedRequestError, post_json
from ray_jobs.waltzrl.judge_forms import JudgeForm
from ray_jobs.waltzrl.prompts import Message

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HTTPJudge:
    """`url` is the server's base, e.g. http://judge:8000/v1; the key comes from `api_key`."""

    url: str
    model: str
    form: JudgeForm
    api_key: str | None = None
    timeout_s: float = 60.0
    tries: int = 3
    parallel_calls: int = 32
    max_tokens: int = 64
    sleep: Callable[[float], None] = time.sleep

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[Labels | None]:
        """Labels in the pairs' order; None where every try failed.

        Raises:
            DataError: not one of the batch could be judged, or the server refuses the request.
        """
        if not pairs:
            return []
        with ThreadPoolExecutor(self.parallel_calls) as pool:
            found = list(pool.map(lambda pair: self._judge(*pair), pairs))
        failed = sum(labels is None for labels in found)
        if failed == len(pairs):
            raise DataError(
                f"judge {self.url}: none of {failed} answers could be judged in {self.tries} tries "
                "each; look at the server, then run again to go on from the newest checkpoint"
            )
        if failed:
            logger.warning("judge  %d of %d answers could not be judged", failed, len(pairs))
        return found

    def _judge(self, prompt: str, answer: str) -> Labels | None:
        for attempt in range(self.tries):
            if attempt:
                self.sleep(2.0 ** (attempt - 1))
            try:
                labels = self.form.read(self._ask(self.form.messages(prompt, answer)))
            except PassingError:
                continue
            if labels is not None:
                return labels
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
            raise DataError(
                f"judge {self.url}: {error} for model {self.model!r}; "
                "check its address, model name and key"
            ) from error
        except (LookupError, TypeError) as error:
            raise PassingError("an answer of another form") from error
