"""Judge models' forms, and a judge behind a real HTTP server that fails in every way."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from data.errors import DataError
from ray_jobs.waltzrl.judges.forms import FORMS, read_llama_guard, read_wildguard
from ray_jobs.waltzrl.judges.judges import judge_dialogues, judge_together
from ray_jobs.waltzrl.judges.server import HTTPJudge
from ray_jobs.waltzrl.rollout.dialogue import Labels, Reply, Trajectory

FINE, UNSAFE, OVERREFUSE = Labels(False, False), Labels(True, False), Labels(False, True)


def answers(harmful: str, refusal: str, unsafe: str) -> str:
    return f"Harmful request: {harmful}\nResponse refusal: {refusal}\nHarmful response: {unsafe}"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (answers("yes", "no", "yes"), UNSAFE),
        (answers("yes", "yes", "no"), FINE),
        (answers("no", "yes", "no"), OVERREFUSE),
        (answers("no", "no", "no"), FINE),
        (answers("No", "YES", "no").upper(), OVERREFUSE),
        (answers("no", "no", "N/A"), None),
        ("Harmful request: yes\nResponse refusal: no", None),
        ("I cannot judge this.", None),
        ("", None),
    ],
)
def test_wildguard(reply: str, expected: Labels | None):
    assert read_wildguard(reply) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("\n\nsafe", FINE),
        ("unsafe\nS1,S9", UNSAFE),
        ("Unsafe", UNSAFE),
        ("perhaps", None),
        ("", None),
    ],
)
def test_llama_guard(reply: str, expected: Labels | None):
    assert read_llama_guard(reply) == expected


@pytest.mark.parametrize("form", FORMS)
def test_texts_stand_in_the_question_as_they_are(form: str):
    message = FORMS[form].message("a {answer} {prompt} {0}", "b {prompt}")
    assert message.count("a {answer} {prompt} {0}") == message.count("b {prompt}") == 1


class PatientServer(ThreadingHTTPServer):
    request_queue_size = 128  # no connection is refused, however many come at once


class Server:
    """Answers with `reply(message, tries so far)`: a text, or an HTTP status."""

    def __init__(self) -> None:
        self.reply: Any = lambda message, tries: answers("yes", "no", "yes")
        self.seen: dict[str, int] = {}
        self.headers: list[str | None] = []
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                message = body["messages"][0]["content"]
                with lock:
                    tries = outer.seen[message] = outer.seen.get(message, 0) + 1
                    outer.headers.append(self.headers["Authorization"])
                said = outer.reply(message, tries)
                status = said if isinstance(said, int) else 200
                content = {"choices": [{"message": {"content": said}}]}
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(content).encode())

            def log_message(self, *args: Any) -> None:
                pass

        self.http = PatientServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/v1"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.http.shutdown()
    thread.join()
    made.http.server_close()


class Clock:
    """Moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s, self._lock = 0.0, threading.Lock()

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.now_s += seconds


def judge(url: str, clock: Clock | None = None, **others: Any) -> HTTPJudge:
    clock = clock or Clock()
    form = FORMS["wildguard"]
    return HTTPJudge(url, "guard", form, sleep=clock.sleep, clock=lambda: clock.now_s, **others)


PAIRS = [(f"prompt {i}", f"answer {i}") for i in range(20)]


def test_labels_come_in_order_with_the_key(server: Server):
    server.reply = lambda message, tries: answers(
        "no", "yes" if message.endswith("7") else "no", "no"
    )
    found = judge(server.url, api_key="secret")(PAIRS)
    assert [i for i, labels in enumerate(found) if labels == OVERREFUSE] == [7, 17]
    assert set(server.headers) == {"Bearer secret"}
    assert judge(server.url)([]) == []


@pytest.mark.parametrize("fault", [503, 429, "no verdict", ""])
def test_what_passes_is_tried_again(server: Server, fault: object):
    server.reply = lambda message, tries: fault if tries < 3 else answers("yes", "no", "yes")
    assert judge(server.url)(PAIRS) == [UNSAFE] * 20
    assert set(server.seen.values()) == {3}


def test_a_judgement_that_stays_away_is_none_and_never_safe(server: Server):
    server.reply = lambda message, tries: (
        500 if message.endswith("3") else answers("yes", "no", "yes")
    )
    found = judge(server.url)(PAIRS)
    assert [i for i, labels in enumerate(found) if labels is None] == [3, 13]
    assert found.count(UNSAFE) == 18


def test_an_absence_of_half_a_minute_is_waited_for(server: Server):
    clock = Clock()
    server.reply = lambda message, tries: answers("yes", "no", "yes") if clock.now_s > 30 else 503
    assert judge(server.url, clock, parallel_calls=1)(PAIRS) == [UNSAFE] * 20
    assert clock.now_s < 60


DIALOGUES = [Trajectory(prompt, i, [Reply(answer)]) for i, (prompt, answer) in enumerate(PAIRS)]


def test_a_judge_that_is_down_for_ever_ends_the_run_with_one_line(server: Server):
    server.reply = lambda message, tries: 503
    clock = Clock()
    with pytest.raises(DataError, match="not one answer of a batch could be judged, 3 times") as c:
        judge_together(judge(server.url, clock, parallel_calls=1), DIALOGUES)
    assert "\n" not in str(c.value) and f"judge {server.url}" in str(c.value)
    assert 3 * 90 <= clock.now_s < 3 * 120  # one waited in each batch, the others not at all
    with pytest.raises(DataError, match="not one answer"):
        judge_together(judge("http://127.0.0.1:9/v1", timeout_s=0.5), DIALOGUES[:1])


def test_a_worker_without_a_judgement_goes_on_where_another_has_one(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ray_jobs.waltzrl.judges.judges.all_agree", lambda mine: mine and False)
    server.reply = lambda message, tries: "no verdict"
    assert judge_together(judge(server.url), DIALOGUES[:1]) == [(None,)]


def test_an_answer_that_the_server_refuses_is_none_and_not_asked_again(
    server: Server, caplog: pytest.LogCaptureFixture
):
    server.reply = lambda message, tries: (
        400 if message.endswith("answer 7") else answers("yes", "no", "yes")
    )
    found = judge(server.url)(PAIRS)
    assert [i for i, labels in enumerate(found) if labels is None] == [7]
    assert set(server.seen.values()) == {1}
    assert "1 of 20 answers could not be judged, the last because of HTTP 400" in caplog.text


def test_a_wrong_address_ends_the_run_at_once(server: Server):
    server.reply = lambda message, tries: 404
    with pytest.raises(DataError, match="HTTP 404 for model 'guard'"):
        judge(server.url)(PAIRS[:1])
    assert list(server.seen.values()) == [1]


def test_dialogues_are_judged_answer_by_answer():
    dialogues = [
        Trajectory("p", 0, [Reply("a"), Reply("b")]),
        Trajectory("q", 1, [Reply("c")]),
    ]
    asked = []

    def spy(pairs):
        asked.extend(pairs)
        return [UNSAFE, FINE, None]

    assert judge_dialogues(spy, dialogues) == [(UNSAFE, FINE), (None,)]
    assert asked == [("p", "a"), ("p", "b"), ("q", "c")]
